"""Save clips, with the workflow inside."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from comfy_api.latest import InputImpl, Types, io, ui
from torch import Tensor

from ..exvideo_core.errors import ExVideoError, VideoError
from ..exvideo_core.video import save_poster, save_video
from ..exvideo_core.video.codecs import CONTAINERS, DEFAULT_QUALITY, QUALITIES, choose_bit_depth, frame_rate
from . import host

_BIT_DEPTHS = {"auto": None, "8 bit": 8, "10 bit": 10}
_NO_AUDIO = object()  # no link; a link has the value None in `validate_inputs`


def _check_format(format: str, fps: float | None, bit_depth: str | None, has_audio: bool) -> None:
    """Check the inputs of a file, options too: ComfyUI does not check inputs that `validate_inputs` names."""
    for name, value, options in (("format", format, host.VIDEO_FORMATS), ("bit_depth", bit_depth, _BIT_DEPTHS)):
        if value is not None and value not in options:
            raise VideoError(f"{name} {value!r} is not known. Valid: {'; '.join(options)}.")
    suffix, codec = host.VIDEO_FORMATS[format]
    choose_bit_depth(codec, _BIT_DEPTHS[bit_depth or "auto"])
    if fps is not None:
        frame_rate(fps, codec)
    if has_audio and not CONTAINERS[suffix].audio:
        raise VideoError(f"{suffix[1:]} files have no sound. Choose mp4 or webm, or unlink the audio.")


@contextmanager
def _frames_are_kept() -> Iterator[None]:
    """Add to errors of saving that ComfyUI still has the frames."""
    try:
        yield
    except (VideoError, OSError) as error:
        raise VideoError(f"{error} ComfyUI still has the frames: queue again, only saving is done again.") from error


class ExVideoSave(io.ComfyNode):
    """Writes frames to a video file in the output folder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExVideoSave",
            display_name="Save ExVideo",
            category="ExVideo/video",
            description="Writes the clip and shows it. Drag the file back onto the canvas to get this graph again "
            "(mp4, mov, webm and webp; for mkv and gif drag the poster).",
            search_aliases=["save video", "export video", "mp4", "gif", "webm", "prores", "保存视频", "导出视频"],
            inputs=[
                io.Image.Input("images", tooltip="The frames, in order. Transparency is left out."),
                io.Float.Input(
                    "fps",
                    default=30.0,
                    min=0.01,
                    max=1000.0,
                    step=0.01,
                    tooltip="Frames per second: more is faster and shorter. 23.98, 29.97 and 59.94 are taken as "
                    "exactly 24000/1001, 30000/1001 and 60000/1001. gif: at most 50, webp: at most 100.",
                ),
                io.Combo.Input(
                    "format",
                    options=list(host.VIDEO_FORMATS),
                    tooltip="Kind of file, and codec. mp4, h264 plays everywhere. h265, vp9 and av1 are smaller, and "
                    "h265 takes longest to write; prores is for editing, gif and webp are for web pages. The page "
                    "shows what the browser can play: not prores, mkv and mostly not h265.",
                ),
                io.Combo.Input(
                    "quality",
                    options=list(QUALITIES),
                    default=DEFAULT_QUALITY,
                    tooltip="Higher keeps more detail in a larger file: high looks like the frames, best is for "
                    "further editing, low is a third of the size or less.",
                ),
                io.String.Input(
                    "filename_prefix",
                    default="exvideo/clip",
                    tooltip="Folder in ComfyUI's output folder, and start of the file's name; a number follows. "
                    "%year%, %month%, %day%, %hour%, %minute%, %second%, %width%, %height%, "
                    "%date:yyyy-MM-dd% and %Title of a node.seed% are filled in.",
                ),
                io.Audio.Input(
                    "audio",
                    optional=True,
                    tooltip="Sound track, cut to the clip's length; a shorter one ends earlier. Not for gif and webp.",
                ),
                io.Combo.Input(
                    "bit_depth",
                    options=list(_BIT_DEPTHS),
                    optional=True,
                    advanced=True,
                    tooltip="Bits per colour. 10 keeps smooth gradients (sky, fog, dark walls) free of bands, in h265, "
                    "vp9, av1 and prores; older players do not show it. auto is 8, and 10 in prores.",
                ),
                io.Boolean.Input(
                    "poster",
                    default=False,
                    optional=True,
                    tooltip="Writes the first frame beside the clip as a PNG of the same name. It holds the graph, "
                    "too: drag it onto the canvas where the clip itself cannot hold one.",
                ),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            outputs=[io.Video.Output(tooltip="The clip for ComfyUI's own video nodes: these frames, not the file.")],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(
        cls,
        fps: float | None = None,  # None: comes through a link
        format: str | None = None,
        filename_prefix: str | None = None,
        audio: Any = _NO_AUDIO,
        bit_depth: str | None = None,
    ) -> bool | str:
        """Refuse before the hours of sampling what `save_video` would refuse."""
        try:
            if filename_prefix is not None:
                host.check_prefix(filename_prefix)
            if format is not None:
                _check_format(format, fps, bit_depth, has_audio=audio is not _NO_AUDIO)
        except ExVideoError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls,
        images: Tensor,
        fps: float,
        format: str,
        quality: str,
        filename_prefix: str,
        audio: Any = None,
        bit_depth: str = "auto",
        poster: bool = False,
    ) -> io.NodeOutput:
        suffix, codec = host.VIDEO_FORMATS[format]
        output = host.new_output(filename_prefix, images.shape[2], images.shape[1])
        tags = host.graph_tags(cls.hidden.prompt, cls.hidden.extra_pnginfo)
        with _frames_are_kept(), output.work_folder() as folder:
            file = folder / f"{output.name}{suffix}"
            save_video(
                images[..., :3],
                file,
                fps,
                codec=codec,
                quality=quality,
                bit_depth=_BIT_DEPTHS[bit_depth],
                audio=(audio["waveform"][0], audio["sample_rate"]) if audio else None,
                metadata=tags if CONTAINERS[suffix].has_tags else None,
                progress=host.progress(len(images)),
            )
            finished = [file]
            if poster:
                finished.append(file.with_suffix(".png"))
                save_poster(images[0, ..., :3], finished[-1], tags)
            clip, *_ = output.take_in(finished)
        components = Types.VideoComponents(images=images, audio=audio, frame_rate=frame_rate(fps, codec))
        saved = ui.SavedResult(clip.name, output.subfolder, io.FolderType.output)
        # the page plays files marked as animated as videos, except webp
        shown = {"images": [saved], "animated": (suffix != ".gif",)}
        return io.NodeOutput(InputImpl.VideoFromComponents(components), ui=shown)
