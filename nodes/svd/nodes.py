"""Stable Video Diffusion with ExVideo's extension: loader and conditioning.

What only a run needs is imported by the run: ComfyUI imports this at every start.
"""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ...exvideo_core.errors import ClipError
from ...exvideo_core.families.svd.geometry import GEOMETRY
from ...exvideo_core.families.svd.vae import SCALING_FACTOR
from .. import host
from ..comfy_bridge.file_lists import WEIGHT_TYPES, check
from .files import CHECKPOINTS, EXTENSIONS


class ExVideoSVDLoader(io.ComfyNode):
    """Loads MODEL, CLIP_VISION and VAE."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExVideoSVDLoader",
            display_name="Load ExVideo SVD",
            category="ExVideo/loaders",
            description="Loads Stable Video Diffusion and ExVideo's extension, which makes its clips 128 frames long.",
            search_aliases=[
                "svd",
                "svd xt",
                "stable video diffusion",
                "img2vid",
                "i2v",
                "image to video",
                "图生视频",
                "图像转视频",
                "加载SVD",
            ],
            inputs=[
                CHECKPOINTS.combo(
                    "checkpoint",
                    tooltip="Stable Video Diffusion: svd_xt.safetensors (9.6 GB), in models/checkpoints. demo svd is "
                    "a small model in this pack, for a first try at 128x128.",
                ),
                EXTENSIONS.combo(
                    "extension",
                    tooltip="Decides how long clips can be. ExVideo-SVD-128f-v1.fp16.safetensors (published as "
                    "model.fp16.safetensors, 1.7 GB), in models/exvideo, makes 128 frames; none makes 25, or what a "
                    "checkpoint can that was saved with its extension.",
                ),
                io.Combo.Input(
                    "weight_dtype",
                    options=list(WEIGHT_TYPES),
                    tooltip="Number format of the weights. default suits the graphics card: 2 bytes a number on most. "
                    "fp8 takes 1 and costs quality, fp32 takes 4 and is slower.",
                    advanced=True,
                ),
            ],
            outputs=[
                io.Model.Output(
                    tooltip="To ExVideo Sampler or KSampler. LoRAs, ExVideo Speed and context windows go in between."
                ),
                io.ClipVision.Output(tooltip="Image encoder, for ExVideo SVD Conditioning."),
                io.Vae.Output(
                    tooltip="Turns frames into latents and back: for ExVideo SVD Conditioning and VAE Decode."
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, checkpoint: str | None = None, extension: str | None = None) -> bool | str:
        return check(checkpoint=(CHECKPOINTS, checkpoint), extension=(EXTENSIONS, extension))

    @classmethod
    def fingerprint_inputs(cls, checkpoint: str, extension: str, **_others: object) -> str:
        used = CHECKPOINTS.find(checkpoint), EXTENSIONS.find_optional(extension)
        return " ".join(map(host.fingerprint, used))

    @classmethod
    def execute(cls, checkpoint: str, extension: str, weight_dtype: str) -> io.NodeOutput:
        from .loading import load_svd

        paths = CHECKPOINTS.find(checkpoint), EXTENSIONS.find_optional(extension)
        return io.NodeOutput(*load_svd(*paths, WEIGHT_TYPES[weight_dtype]))


class ExVideoSVDConditioning(io.ComfyNode):
    """Makes SVD's conditioning of an image, and the latents to start from."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExVideoSVDConditioning",
            display_name="ExVideo SVD Conditioning",
            category="ExVideo/conditioning",
            description="The image to animate, size and length of the clip, and the amount of motion.",
            search_aliases=[
                "SVD_img2vid_Conditioning",
                "img2vid",
                "i2v",
                "image to video",
                "keyframes",
                "vid2vid",
                "图生视频",
                "关键帧",
                "视频生视频",
                "SVD条件",
            ],
            inputs=[
                io.ClipVision.Input(
                    "clip_vision", tooltip="From Load ExVideo SVD; tells the model what is in the image."
                ),
                io.Vae.Input("vae", tooltip="From Load ExVideo SVD; encodes the image."),
                io.Image.Input(
                    "image",
                    tooltip="First frame of the clip; of several images the first. Resized to cover width x height, "
                    "and cut at its edges.",
                ),
                io.Int.Input(
                    "width",
                    default=512,
                    min=128,
                    max=4096,
                    step=8,
                    tooltip="Of the clip, in pixels; a multiple of 8. Larger shows more detail; memory and time grow "
                    "with width x height.",
                ),
                io.Int.Input(
                    "height",
                    default=512,
                    min=128,
                    max=4096,
                    step=8,
                    tooltip="Of the clip, in pixels; a multiple of 8. ExVideo was trained on 512x512.",
                ),
                io.Int.Input(
                    "frames",
                    default=128,
                    min=2,
                    max=4096,
                    tooltip="Length of the clip. 128 with ExVideo, 25 with plain SVD; fewer are quicker, more than "
                    "the extension knows are refused.",
                ),
                io.Int.Input(
                    "fps",
                    default=30,
                    min=1,
                    max=1024,
                    tooltip="Frames per second that the clip is made for: lower moves more from frame to frame. Give "
                    "Save ExVideo the same. 30 with ExVideo, 7 with plain SVD.",
                ),
                io.Int.Input(
                    "motion_bucket_id",
                    default=127,
                    min=0,
                    max=1023,
                    tooltip="Amount of motion, without a unit: 30 is calm, 127 usual, 200 lively. Values above 255 "
                    "were not trained.",
                ),
                io.Float.Input(
                    "noise_augmentation",
                    default=0.02,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    tooltip="Strength of noise on the image; 1 is half its range of brightness. More lets the clip "
                    "differ from it; 0.02 keeps it.",
                    advanced=True,
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=False,  # else the page changes a seed after each run
                    tooltip="Seed of that noise only, hardly visible; the sampler's seed varies the clip. With the "
                    "same seed in both, the Python interface gives the same clip.",
                    advanced=True,
                ),
                io.Image.Input(
                    "init_video",
                    optional=True,
                    tooltip="Clip to vary, of at least so many frames; resized and cropped like the image. Set denoise "
                    "in the sampler below 1: lower stays closer to it.",
                ),
                io.Image.Input(
                    "keyframes",
                    optional=True,
                    tooltip="Images that appear unchanged in the clip, one or several as a batch; keyframe_indices "
                    "says where.",
                ),
                io.String.Input(
                    "keyframe_indices",
                    default="",
                    optional=True,
                    tooltip="Frame number of each keyframe, counted from 0, with commas: 0, 64, 127",
                    advanced=True,
                ),
                io.Float.Input(
                    "encode_scale",
                    default=0.18215,
                    min=0.01,
                    max=1.0,
                    step=0.00001,
                    round=0.00001,
                    optional=True,
                    tooltip="Factor on the latents of init_video and keyframes: lower makes them paler. 0.18215 is "
                    "SVD's own, 0.13025 the one ExVideo was trained with.",
                    advanced=True,
                ),
                io.Latent.Input(
                    "continue_from",
                    optional=True,
                    tooltip="A sampler's latents that this clip continues, of the same width and height: it starts "
                    "with their last frames, without the loss of decoding and encoding them. image then only "
                    "describes the content.",
                ),
                io.Int.Input(
                    "shared_frames",
                    default=1,
                    min=1,
                    max=4095,
                    optional=True,
                    tooltip="How many last frames of continue_from are the first of this clip; drop them when you join "
                    "the two. More keep the speed of a movement, and leave fewer new frames.",
                    advanced=True,
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="The image and its settings, for a sampler."),
                io.Conditioning.Output(
                    display_name="negative", tooltip="These settings without the image, for a sampler's guidance."
                ),
                io.Latent.Output(
                    display_name="latent",
                    tooltip="Latents to start from: size and length, with init_video and keyframes if given.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(
        cls, width: int | None = None, height: int | None = None, keyframe_indices: str | None = None
    ) -> bool | str:
        from . import conditioning

        try:
            conditioning.parse_indices(keyframe_indices or "")
            if width is not None and height is not None:  # None: comes through a link
                GEOMETRY.check_size(width, height)
        except ClipError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls,
        clip_vision: object,
        vae: object,
        image: Tensor,
        width: int,
        height: int,
        frames: int,
        fps: int,
        motion_bucket_id: int,
        noise_augmentation: float,
        seed: int,
        init_video: Tensor | None = None,
        keyframes: Tensor | None = None,
        keyframe_indices: str = "",
        encode_scale: float = SCALING_FACTOR,
        continue_from: dict[str, Any] | None = None,
        shared_frames: int = 1,
    ) -> io.NodeOutput:
        from . import conditioning

        conditioning.check_parts(clip_vision, vae)
        size = conditioning.ClipSize(width=width, height=height, frames=frames)
        pinned = conditioning.place_keyframes(keyframes, conditioning.parse_indices(keyframe_indices), frames)
        settings = {"fps": fps, "motion_bucket_id": motion_bucket_id, "noise": noise_augmentation, "seed": seed}
        positive, negative = conditioning.condition(clip_vision, vae, image, size, **settings)
        latent = conditioning.start_latents(vae, size, init_video, pinned, encode_scale)
        if continue_from is not None:
            positive, latent = conditioning.continue_clip(positive, latent, continue_from["samples"], shared_frames)
        return io.NodeOutput(positive, negative, latent)


class ExVideoSVDJoin(io.ComfyNode):
    """Joins two clips in latent space: decoded together they have no seam."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExVideoSVDJoin",
            display_name="Join ExVideo SVD Clips",
            category="ExVideo/latent",
            description="Joins a clip and its continuation to one longer clip. Decode the result, not the parts: "
            "frames that are decoded separately show a jump.",
            search_aliases=["concat clips", "extend video", "longer video", "join latents", "拼接片段", "延长视频"],
            inputs=[
                io.Latent.Input("first", tooltip="From a sampler, or from another node like this."),
                io.Latent.Input("second", tooltip="From a sampler, of a clip that continues the first."),
                io.Int.Input(
                    "shared_frames",
                    default=1,
                    min=0,
                    max=4095,
                    tooltip="How many first frames of second are dropped, because first ends with them: the value in "
                    "the conditioning of second.",
                ),
            ],
            outputs=[io.Latent.Output(tooltip="All frames of first, then the new ones of second.")],
        )

    @classmethod
    def execute(cls, first: dict[str, Any], second: dict[str, Any], shared_frames: int) -> io.NodeOutput:
        from .conditioning import join

        return io.NodeOutput({"samples": join(first["samples"], second["samples"], shared_frames)})
