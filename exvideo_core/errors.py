"""Errors a user can act on.

The terminal and ComfyUI show their text unchanged: what was given, what was expected, what to do.
A mistake in the calling code is a ValueError or TypeError instead.
"""

from __future__ import annotations


class ExVideoError(Exception):
    """Base class of all errors whose text is for users."""


class CheckpointError(ExVideoError):
    """A weight file is damaged, unknown, in the wrong place, or does not fit the model."""


class ClipError(ExVideoError):
    """The model cannot make a clip with so many frames, or of that width or height."""


class VideoError(ExVideoError):
    """A picture or video cannot be read or written."""


class DownloadError(ExVideoError):
    """A published file cannot be fetched: no network, no permission, no room, or it arrives damaged."""


class NumberError(ExVideoError):
    """A tensor has NaN or Inf, as where float16 overflows."""

    def at(self, place: str) -> NumberError:
        """This error with a place in front that the network does not know: the step of the run, or the frames."""
        return type(self)(f"{place}: {self}")
