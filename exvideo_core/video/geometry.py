"""Frame and size rules of a video model: which clips it makes, and the shape of their latents."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ClipError


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Arithmetic between pixels and latents, and the clips that a model can make.

    Attributes:
        title: of the model, in messages.
        spatial_factor: pixels along one side of a latent cell.
        temporal_factor: frames of a latent frame; the first frame of an odd number of latent frames is alone in one.
        size_multiple, min_size: of width and height, in pixels.
        frame_multiple: clips have k * frame_multiple + 1 frames; 1 allows every number.
        min_frames: of a clip.
    """

    title: str
    spatial_factor: int
    temporal_factor: int = 1
    size_multiple: int
    min_size: int
    frame_multiple: int = 1
    min_frames: int

    def latent_frames(self, num_frames: int) -> int:
        """Latent frames of a clip."""
        return (num_frames - 1) // self.temporal_factor + 1

    def frames_of(self, latent_frames: int) -> int:
        """Frames that so many latent frames decode to; with an even number, no frame is alone in one."""
        return self.temporal_factor * latent_frames - (self.temporal_factor - 1) * (latent_frames % 2)

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Latent frames, height and width of a clip, without channels: their place depends on the network."""
        return self.latent_frames(num_frames), height // self.spatial_factor, width // self.spatial_factor

    def check_cells(self, height: int, width: int) -> None:
        """Raise ValueError unless pixels fill whole latent cells."""
        if height % self.spatial_factor or width % self.spatial_factor:
            raise ValueError(f"height and width must be multiples of {self.spatial_factor}, not {height} and {width}")

    def check_size(self, width: int, height: int) -> None:
        """Raise ClipError with the nearest valid size unless the model makes width x height pixels."""
        multiple = self.size_multiple
        nearest = [max(self.min_size, (side + multiple // 2) // multiple * multiple) for side in (width, height)]
        if [width, height] != nearest:
            raise ClipError(
                f"{width}x{height} pixels are not possible: width and height must be multiples of {multiple} "
                f"and at least {self.min_size}. The nearest size is {nearest[0]}x{nearest[1]}."
            )

    def most_frames(self, num_frames: int) -> int:
        """The longest valid clip of no more frames, or the shortest there is."""
        return max(self.min_frames, (num_frames - 1) // self.frame_multiple * self.frame_multiple + 1)

    def check_frames(self, num_frames: int, longest: int | None = None) -> None:
        """Raise ClipError with the nearest valid lengths unless the model makes clips of so many frames.

        Args:
            num_frames: of the clip.
            longest: length of the position table, where the model has one.
        """
        below = self.most_frames(num_frames)
        above = below if below >= num_frames else below + self.frame_multiple
        limit = above if longest is None else self.most_frames(longest)
        nearest = sorted({min(below, limit), min(above, limit)})
        if num_frames not in nearest:
            verb = "is" if len(nearest) == 1 else "are"
            raise ClipError(
                f"{num_frames} frames are not possible: {self._frame_rule(longest)}. "
                f"The nearest {verb} {' and '.join(map(str, nearest))}."
            )

    def _frame_rule(self, longest: int | None) -> str:
        if self.frame_multiple > 1:
            return f"{self.title} makes {self.frame_multiple} k + 1 of them, at least {self.min_frames}"
        upper = f" to {longest}, the length of this extension's position table" if longest else " or more"
        return f"{self.min_frames}{upper}"
