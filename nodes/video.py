"""Saving clips, with the graph inside."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from comfy_api.latest import InputImpl, Types, io, ui
from torch import Tensor

from ..exvideo_core.errors import ExVideoError
from ..exvideo_core.video import save_video
from ..exvideo_core.video.codecs import DEFAULT_QUALITY, QUALITIES
from . import host


class ExVideoSave(io.ComfyNode):
    """Frames to a file in the output folder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExVideoSave",
            display_name="Save ExVideo",
            category="ExVideo/video",
            description="Writes the clip and shows it. Drag the file back onto the canvas to get this graph again "
            "(mp4, mov, mkv and webm).",
            search_aliases=["save video", "export video", "mp4", "gif"],
            inputs=[
                io.Image.Input("images"),
                io.Float.Input("fps", default=30.0, min=0.01, max=1000.0, step=0.01),
                io.Combo.Input(
                    "format",
                    options=list(host.VIDEO_FORMATS),
                    tooltip="mp4, h264 plays everywhere. prores is for editing, gif and webp are for web pages. "
                    "The page shows what the browser can play: not prores, mkv and mostly not h265.",
                ),
                io.Combo.Input("quality", options=list(QUALITIES), default=DEFAULT_QUALITY),
                io.String.Input(
                    "filename_prefix", default="exvideo/clip", tooltip="Folder and start of the file's name."
                ),
                io.Audio.Input("audio", optional=True, tooltip="Sound track, cut to the clip's length."),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            outputs=[io.Video.Output()],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, filename_prefix: str | None = None) -> bool | str:
        try:
            if filename_prefix is not None:  # None: comes through a link
                host.check_prefix(filename_prefix)
        except ExVideoError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls, images: Tensor, fps: float, format: str, quality: str, filename_prefix: str, audio: Any = None
    ) -> io.NodeOutput:
        suffix, codec = host.VIDEO_FORMATS[format]
        file = host.new_output(filename_prefix, suffix, images.shape[2], images.shape[1])
        sound = (audio["waveform"][0], audio["sample_rate"]) if audio else None
        tags = host.graph_tags(cls.hidden.prompt, cls.hidden.extra_pnginfo, suffix)
        report = host.progress(len(images))
        save_video(
            images[..., :3], file.path, fps, codec=codec, quality=quality, audio=sound, metadata=tags, progress=report
        )
        rate = Fraction(fps).limit_denominator(1001)
        video = InputImpl.VideoFromComponents(Types.VideoComponents(images=images, audio=audio, frame_rate=rate))
        saved = ui.SavedResult(file.path.name, file.subfolder, io.FolderType.output)
        # the page plays as a video what is called animated, and knows only webp as an exception
        return io.NodeOutput(video, ui={"images": [saved], "animated": (suffix != ".gif",)})
