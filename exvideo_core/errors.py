"""Errors a user can act on.

Their text is shown as it is, in the terminal and in ComfyUI: what was given, what was expected, what to do.
A mistake of the calling code is a ValueError or TypeError instead.
"""

from __future__ import annotations


class ExVideoError(Exception):
    """Base of every error that is written for the person at the keyboard."""


class CheckpointError(ExVideoError):
    """A weight file is damaged, unknown, in the wrong place, or does not fit the model."""


class ClipError(ExVideoError):
    """A clip is asked for that the model cannot make: frames, width or height."""


class VideoError(ExVideoError):
    """A picture or video cannot be read or written."""


class DownloadError(ExVideoError):
    """A published file cannot be fetched: no network, no permission, no room, or it arrives damaged."""


class NumberError(ExVideoError):
    """A value came up that is no number: NaN, or infinity where something grew beyond its number format."""

    def at(self, place: str) -> NumberError:
        """The same with what networks do not know: the step of the run, or the frames."""
        return type(self)(f"{place}: {self}")
