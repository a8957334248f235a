"""CogVideoX with ExVideo's LoRA: loader, empty latent and LoRA.

What only a run needs is imported by the run: ComfyUI imports this at every start.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io
from torch import Tensor

from ...exvideo_core.errors import ClipError
from ...exvideo_core.families.cogvideox.geometry import GEOMETRY
from .. import host
from ..comfy_bridge.file_lists import WEIGHT_TYPES, check
from .files import LORAS, TEXT_ENCODERS, TRANSFORMERS, VAES


class ExVideoCogVideoXLoader(io.ComfyNode):
    """Loads MODEL, CLIP and VAE."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExVideoCogVideoXLoader",
            display_name="Load ExVideo CogVideoX",
            category="ExVideo/loaders",
            description="Loads CogVideoX-5B with the positions it was trained with. Apply ExVideo LoRA makes its clips "
            "129 frames long.",
            search_aliases=[
                "cogvideo",
                "cogvideox",
                "cogvideox-5b",
                "txt2vid",
                "t2v",
                "text to video",
                "文生视频",
                "文本转视频",
                "加载CogVideoX",
            ],
            inputs=[
                TRANSFORMERS.combo(
                    "transformer",
                    tooltip="Transformer of THUDM/CogVideoX-5b, in models/diffusion_models: one file, or the first of "
                    "its shards beside the others (11 GB). A diffusers folder goes to models/diffusers.",
                ),
                TEXT_ENCODERS.combo(
                    "text_encoder",
                    tooltip="T5 XXL, which reads the prompt, in models/text_encoders: that of THUDM/CogVideoX-5b, or "
                    "t5xxl_fp16.safetensors (9.8 GB), which FLUX and SD3 use too.",
                ),
                VAES.combo(
                    "vae",
                    tooltip="VAE of THUDM/CogVideoX-5b, in models/vae (0.4 GB): turns latents into frames.",
                ),
                io.Combo.Input(
                    "weight_dtype",
                    options=list(WEIGHT_TYPES),
                    tooltip="Number format of the transformer's weights. default suits the graphics card: 2 bytes a "
                    "number, 11 GB. fp8 takes half and costs quality, fp32 takes double and is slower.",
                    advanced=True,
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="To Apply ExVideo LoRA for 129 frames; without a LoRA for 49."),
                io.Clip.Output(tooltip="To two CLIP Text Encode nodes: the prompt and the negative prompt."),
                io.Vae.Output(tooltip="To VAE Decode; to ExVideo CogVideoX Latent if there is an init_video."),
            ],
        )

    @classmethod
    def validate_inputs(
        cls, transformer: str | None = None, text_encoder: str | None = None, vae: str | None = None
    ) -> bool | str:
        return check(
            transformer=(TRANSFORMERS, transformer),
            text_encoder=(TEXT_ENCODERS, text_encoder),
            vae=(VAES, vae),
        )

    @classmethod
    def fingerprint_inputs(cls, transformer: str, text_encoder: str, vae: str, **_others: object) -> str:
        return " ".join(map(host.fingerprint, cls._files(transformer, text_encoder, vae)))

    @classmethod
    def execute(cls, transformer: str, text_encoder: str, vae: str, weight_dtype: str) -> io.NodeOutput:
        from .loading import load_cogvideox

        return io.NodeOutput(*load_cogvideox(*cls._files(transformer, text_encoder, vae), WEIGHT_TYPES[weight_dtype]))

    @staticmethod
    def _files(transformer: str, text_encoder: str, vae: str) -> tuple[Path, Path, Path]:
        return (
            TRANSFORMERS.find(transformer),
            TEXT_ENCODERS.find(text_encoder),
            VAES.find(vae),
        )


class ExVideoCogVideoXLatent(io.ComfyNode):
    """Makes the latents to start from."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExVideoCogVideoXLatent",
            display_name="ExVideo CogVideoX Latent",
            category="ExVideo/latent",
            description="Size and length of the clip, and a clip to vary.",
            search_aliases=[
                "empty latent video",
                "EmptyLatentImage",
                "cogvideox latent",
                "vid2vid",
                "video to video",
                "空Latent",
                "视频生视频",
            ],
            inputs=[
                io.Int.Input(
                    "width",
                    default=720,
                    min=16,
                    max=4096,
                    step=16,
                    tooltip="Of the clip, in pixels; a multiple of 16. CogVideoX was trained on 720x480: smaller is "
                    "quicker, other sizes look worse.",
                ),
                io.Int.Input(
                    "height",
                    default=480,
                    min=16,
                    max=4096,
                    step=16,
                    tooltip="Of the clip, in pixels; a multiple of 16. Memory and time grow with width x height.",
                ),
                io.Int.Input(
                    "frames",
                    default=129,
                    min=9,
                    max=4097,
                    step=8,
                    tooltip="Length of the clip, a multiple of 8 plus 1: 129 with ExVideo's LoRA (16 seconds at 8 a "
                    "second), 49 without. Fewer are faster.",
                ),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="From Load ExVideo CogVideoX. Only needed when there is an init_video.",
                ),
                io.Image.Input(
                    "init_video",
                    optional=True,
                    tooltip="Clip to vary, of at least so many frames; resized and cropped to width x height. Set "
                    "denoise in the sampler below 1: lower stays closer to it.",
                ),
            ],
            outputs=[io.Latent.Output(tooltip="Latents to start from: of this size, empty or of init_video.")],
        )

    @classmethod
    def validate_inputs(
        cls, width: int | None = None, height: int | None = None, frames: int | None = None
    ) -> bool | str:
        try:
            if width is not None and height is not None:  # None: comes through a link
                GEOMETRY.check_size(width, height)
            if frames is not None:
                GEOMETRY.check_frames(frames)
        except ClipError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls, width: int, height: int, frames: int, vae: Any = None, init_video: Tensor | None = None
    ) -> io.NodeOutput:
        from .latent import start_latents

        return io.NodeOutput(start_latents(width, height, frames, vae, init_video))


class ExVideoLoRAApply(io.ComfyNode):
    """Applies a LoRA to a MODEL, and reports what was applied."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExVideoLoRAApply",
            display_name="Apply ExVideo LoRA",
            category="ExVideo/loaders",
            description="Extends CogVideoX-5B to 129 frames. Takes LoRAs of CogVideoX with any key names, and reports "
            "what was applied; one that does not fit is an error.",
            search_aliases=["lora", "load lora", "cogvideox lora", "129 frames", "exvideo lora", "加载LoRA", "长视频"],
            inputs=[
                io.Model.Input("model", tooltip="From Load ExVideo CogVideoX, or another LoRA node."),
                LORAS.combo(
                    "lora",
                    tooltip="ExVideo-CogVideoX-LoRA-129f-v1.safetensors, in models/loras; or any other LoRA of "
                    "CogVideoX-5B, one node after the other.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.01,
                    tooltip="Factor on the LoRA. ExVideo's was made for 1; 0 is off. Lower weakens the style of other "
                    "LoRAs, negative inverts it.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
            outputs=[
                io.Model.Output(tooltip="The model with the LoRA; the input model is not changed."),
                io.String.Output(
                    display_name="report", tooltip="How many tensors of the file were applied, and where."
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, lora: str | None = None) -> bool | str:
        return check(lora=(LORAS, lora))

    @classmethod
    def fingerprint_inputs(cls, lora: str, **_others: object) -> str:
        return host.fingerprint(LORAS.find(lora))

    @classmethod
    def execute(cls, model: ModelPatcher, lora: str, strength: float) -> io.NodeOutput:
        from . import lora as lora_patches

        patched, report = lora_patches.apply(model, LORAS.find(lora), strength)
        host.show_text(cls.hidden.unique_id, report)
        return io.NodeOutput(patched, report)
