"""Stable Video Diffusion with ExVideo's extension: loader and conditioning."""

from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from ..exvideo_core.errors import ClipError
from ..exvideo_core.video.frames import check_svd_size
from . import host
from .adapters import conditioning
from .adapters.loading import WEIGHT_TYPES, load_svd


class ExVideoSVDLoader(io.ComfyNode):
    """Files to MODEL, CLIP_VISION and VAE."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExVideoSVDLoader",
            display_name="Load ExVideo SVD",
            category="ExVideo/loaders",
            description="Stable Video Diffusion, and ExVideo's extension that makes its clips 128 frames long.",
            search_aliases=["stable video diffusion", "svd", "image to video"],
            inputs=[
                io.Combo.Input(
                    "checkpoint",
                    options=host.list_files(host.CHECKPOINTS_FOLDER),
                    tooltip="svd_xt.safetensors, in models/checkpoints.",
                ),
                io.Combo.Input(
                    "extension",
                    options=host.list_extensions(),
                    tooltip="ExVideo-SVD-128f-v1 (model.fp16.safetensors), in models/exvideo. "
                    "none: plain SVD, or a checkpoint that was saved with its extension.",
                ),
                io.Combo.Input(
                    "weight_dtype",
                    options=list(WEIGHT_TYPES),
                    tooltip="default suits the graphics card. fp8 halves the memory of the weights and costs quality.",
                    advanced=True,
                ),
            ],
            outputs=[io.Model.Output(), io.ClipVision.Output(), io.Vae.Output()],
        )

    @classmethod
    def fingerprint_inputs(cls, checkpoint: str, extension: str, **_others: object) -> str:
        files = host.find_file(host.CHECKPOINTS_FOLDER, checkpoint), host.find_extension(extension)
        return " ".join(map(host.fingerprint, files))

    @classmethod
    def execute(cls, checkpoint: str, extension: str, weight_dtype: str) -> io.NodeOutput:
        file = host.find_file(host.CHECKPOINTS_FOLDER, checkpoint)
        return io.NodeOutput(*load_svd(file, host.find_extension(extension), WEIGHT_TYPES[weight_dtype]))


class ExVideoSVDConditioning(io.ComfyNode):
    """A picture to what SVD is told, and the latents to start from."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExVideoSVDConditioning",
            display_name="ExVideo SVD Conditioning",
            category="ExVideo/conditioning",
            description="The picture to move, size and length of the clip, and how much should move.",
            search_aliases=["SVD_img2vid_Conditioning", "image to video"],
            inputs=[
                io.ClipVision.Input("clip_vision"),
                io.Vae.Input("vae"),
                io.Image.Input("image", tooltip="First frame of the clip; resized and cut to the size below."),
                io.Int.Input("width", default=512, min=128, max=4096, step=8),
                io.Int.Input("height", default=512, min=128, max=4096, step=8),
                io.Int.Input("frames", default=128, min=2, max=4096, tooltip="128 with ExVideo, 25 with plain SVD."),
                io.Int.Input("fps", default=30, min=1, max=1024, tooltip="Frames per second the clip is made for."),
                io.Int.Input("motion_bucket_id", default=127, min=0, max=1023, tooltip="Higher moves more."),
                io.Float.Input(
                    "noise_augmentation",
                    default=0.02,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    tooltip="Noise on the picture. More lets the clip differ from it.",
                    advanced=True,
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=False,  # else the page changes a seed after each run
                    tooltip="Of that noise. The same seed as in the sampler gives what the Python interface gives.",
                    advanced=True,
                ),
                io.Image.Input(
                    "init_video", optional=True, tooltip="Clip to vary, with denoise below 1 in the sampler."
                ),
                io.Image.Input("keyframes", optional=True, tooltip="Pictures that appear in the clip as they are."),
                io.String.Input(
                    "keyframe_indices",
                    default="",
                    optional=True,
                    tooltip="Frame of each keyframe, such as: 0, 64, 127",
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
                    tooltip="Scale of encoded clips and keyframes. 0.13025 is the one ExVideo was trained with.",
                    advanced=True,
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive"),
                io.Conditioning.Output(display_name="negative"),
                io.Latent.Output(display_name="latent"),
            ],
        )

    @classmethod
    def validate_inputs(
        cls, width: int | None = None, height: int | None = None, keyframe_indices: str | None = None
    ) -> bool | str:
        try:
            conditioning.parse_indices(keyframe_indices or "")
            if width is not None and height is not None:  # None: comes through a link
                check_svd_size(width, height)
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
        encode_scale: float = conditioning.SCALE,
    ) -> io.NodeOutput:
        conditioning.check_parts(clip_vision, vae)
        size = conditioning.ClipSize(width=width, height=height, frames=frames)
        pinned = conditioning.place_keyframes(keyframes, conditioning.parse_indices(keyframe_indices), frames)
        told = {"fps": fps, "motion_bucket_id": motion_bucket_id, "noise": noise_augmentation, "seed": seed}
        positive, negative = conditioning.condition(clip_vision, vae, image, size, **told)
        latent = conditioning.start_latents(vae, size, init_video, pinned, encode_scale)
        return io.NodeOutput(positive, negative, latent)
