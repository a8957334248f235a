"""CogVideoX with ExVideo's LoRA: loader, empty latent and LoRA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io
from torch import Tensor

from ..exvideo_core.errors import ClipError
from . import host
from .adapters import cogvideox_latent
from .adapters import lora as lora_patches
from .adapters.cogvideox_loading import load_cogvideox
from .adapters.loading import WEIGHT_TYPES


class ExVideoCogVideoXLoader(io.ComfyNode):
    """Files to MODEL, CLIP and VAE."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExVideoCogVideoXLoader",
            display_name="Load ExVideo CogVideoX",
            category="ExVideo/loaders",
            description="CogVideoX-5B, with the positions it was trained with; Apply ExVideo LoRA makes its clips 129 "
            "frames long.",
            search_aliases=["cogvideo", "cogvideox", "text to video"],
            inputs=[
                io.Combo.Input(
                    "transformer",
                    options=host.list_parts(host.TRANSFORMERS_FOLDER),
                    tooltip="Transformer of THUDM/CogVideoX-5b, in models/diffusion_models: one file, or the first of "
                    "its shards beside the others. A diffusers folder goes to models/diffusers.",
                ),
                io.Combo.Input(
                    "text_encoder",
                    options=host.list_parts(host.TEXT_ENCODERS_FOLDER),
                    tooltip="T5 XXL, in models/text_encoders: that of THUDM/CogVideoX-5b, or t5xxl_fp16.safetensors.",
                ),
                io.Combo.Input(
                    "vae",
                    options=host.list_parts(host.VAE_FOLDER),
                    tooltip="VAE of THUDM/CogVideoX-5b, in models/vae.",
                ),
                io.Combo.Input(
                    "weight_dtype",
                    options=list(WEIGHT_TYPES),
                    tooltip="Of the transformer. default suits the graphics card. fp8 halves the memory of the weights "
                    "and costs quality.",
                    advanced=True,
                ),
            ],
            outputs=[io.Model.Output(), io.Clip.Output(), io.Vae.Output()],
        )

    @classmethod
    def fingerprint_inputs(cls, transformer: str, text_encoder: str, vae: str, **_others: object) -> str:
        return " ".join(map(host.fingerprint, cls._files(transformer, text_encoder, vae)))

    @classmethod
    def execute(cls, transformer: str, text_encoder: str, vae: str, weight_dtype: str) -> io.NodeOutput:
        return io.NodeOutput(*load_cogvideox(*cls._files(transformer, text_encoder, vae), WEIGHT_TYPES[weight_dtype]))

    @staticmethod
    def _files(transformer: str, text_encoder: str, vae: str) -> tuple[Path, Path, Path]:
        return (
            host.find_part(host.TRANSFORMERS_FOLDER, transformer),
            host.find_part(host.TEXT_ENCODERS_FOLDER, text_encoder),
            host.find_part(host.VAE_FOLDER, vae),
        )


class ExVideoCogVideoXLatent(io.ComfyNode):
    """Size and length of a clip to the latents to start from."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExVideoCogVideoXLatent",
            display_name="ExVideo CogVideoX Latent",
            category="ExVideo/latent",
            description="Size and length of the clip, and a clip to vary.",
            search_aliases=["empty latent video", "EmptyLatentImage"],
            inputs=[
                io.Int.Input(
                    "width", default=720, min=16, max=4096, step=16, tooltip="CogVideoX was trained on 720x480."
                ),
                io.Int.Input("height", default=480, min=16, max=4096, step=16),
                io.Int.Input(
                    "frames",
                    default=129,
                    min=9,
                    max=4097,
                    step=8,
                    tooltip="A multiple of 8 plus 1: 129 with ExVideo's LoRA, 49 without.",
                ),
                io.Vae.Input("vae", optional=True, tooltip="Only for init_video."),
                io.Image.Input(
                    "init_video", optional=True, tooltip="Clip to vary, with denoise below 1 in the sampler."
                ),
            ],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def validate_inputs(
        cls, width: int | None = None, height: int | None = None, frames: int | None = None
    ) -> bool | str:
        try:
            cogvideox_latent.check_clip(width, height, frames)  # None: comes through a link
        except ClipError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls, width: int, height: int, frames: int, vae: Any = None, init_video: Tensor | None = None
    ) -> io.NodeOutput:
        return io.NodeOutput(cogvideox_latent.start_latents(width, height, frames, vae, init_video))


class ExVideoLoRAApply(io.ComfyNode):
    """A MODEL with a LoRA, and what of it was applied."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExVideoLoRAApply",
            display_name="Apply ExVideo LoRA",
            category="ExVideo/loaders",
            description="Extends CogVideoX-5B to 129 frames. Takes LoRAs of CogVideoX in every naming, and says what "
            "was applied; one that does not fit is an error.",
            search_aliases=["lora", "load lora", "cogvideox lora"],
            inputs=[
                io.Model.Input("model"),
                io.Combo.Input(
                    "lora",
                    options=host.list_files(host.LORAS_FOLDER),
                    tooltip="ExVideo-CogVideoX-LoRA-129f-v1.safetensors, in models/loras.",
                ),
                io.Float.Input("strength", default=1.0, min=-10.0, max=10.0, step=0.01),
            ],
            hidden=[io.Hidden.unique_id],
            outputs=[io.Model.Output(), io.String.Output(display_name="report")],
        )

    @classmethod
    def fingerprint_inputs(cls, lora: str, **_others: object) -> str:
        return host.fingerprint(host.find_file(host.LORAS_FOLDER, lora))

    @classmethod
    def execute(cls, model: ModelPatcher, lora: str, strength: float) -> io.NodeOutput:
        patched, report = lora_patches.apply(model, host.find_file(host.LORAS_FOLDER, lora), strength)
        host.show_text(cls.hidden.unique_id, report)
        return io.NodeOutput(patched, report)
