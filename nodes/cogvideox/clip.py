"""CogVideoX's text encoder as ComfyUI's CLIP: ComfyUI's own T5 and tokenizer, with the model's 226 tokens.

Prompts are padded or cut to that length, and the padding is attended to, like in training. ComfyUI itself supports this
since 0.30, for one width only.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import comfy.sd
import comfy.text_encoders.t5
import comfy.utils
import folder_paths
import torch
from comfy import sd1_clip, supported_models_base
from torch import Tensor
from transformers import T5TokenizerFast

from ...exvideo_core.families.cogvideox.text_encoder import MAX_TOKENS, TextEncoderConfig
from ...exvideo_core.nn.nan_check import checked
from ...exvideo_core.weights.assign import shapes_of
from ..comfy_bridge.loading import fill

_NAME = "t5xxl"  # ComfyUI's LoRA loaders and CLIPSave know a T5 by this name
_TOKENIZER = Path(sd1_clip.__file__).parent / "text_encoders" / "t5_tokenizer"
_PAD, _END = 0, 1


class Tokenizer(sd1_clip.SDTokenizer):
    """ComfyUI's T5 tokenizer, with its (weights:1.2) and embeddings, cut to 226 tokens like the reference's."""

    def __init__(self, embedding_directory: Any = None, tokenizer_data: Mapping[str, Any] | None = None) -> None:
        data = tokenizer_data or {}
        super().__init__(
            str(_TOKENIZER),
            embedding_directory=embedding_directory,
            pad_with_end=False,
            embedding_size=data.get("embedding_size", 4096),
            embedding_key=_NAME,
            tokenizer_class=T5TokenizerFast,
            has_start_token=False,
            pad_to_max_length=False,
            max_length=99_999_999,  # cut below: ComfyUI would put the rest into a second batch
            min_length=MAX_TOKENS,
            tokenizer_data=data,
        )

    def tokenize_with_weights(self, text: str, *args: Any, **options: Any) -> list[list[Any]]:
        batches = super().tokenize_with_weights(text, *args, **options)
        return [[*batch[: MAX_TOKENS - 1], batch[-1]] if len(batch) > MAX_TOKENS else batch for batch in batches]


class PromptTokenizer(sd1_clip.SD1Tokenizer):
    """The tokenizer in the form that CLIPTextEncode uses."""

    def __init__(self, embedding_directory: Any = None, tokenizer_data: Mapping[str, Any] | None = None) -> None:
        data = tokenizer_data or {}
        super().__init__(embedding_directory, data, name=_NAME, tokenizer=Tokenizer)


class TextModel(sd1_clip.SDClipModel):
    """ComfyUI's T5 of any width, with attention to the padding, which stays in the result."""

    def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: Any = None) -> None:
        options = model_options or {}
        super().__init__(
            device=device,
            dtype=dtype,
            layer="last",
            textmodel_json_config=dict(options["t5_config"]),
            special_tokens={"end": _END, "pad": _PAD},
            model_class=comfy.text_encoders.t5.T5,
            enable_attention_masks=False,
            zero_out_masked=False,
            model_options={**options, "model_name": _NAME},
        )

    def forward(self, tokens: Any) -> Any:
        """Encode tokens; NaN or Inf in the embedding is an error that names the layer."""
        encode = partial(super().forward, tokens)
        encoded = encode()
        checked(encoded[0], self.transformer, lambda: encode()[0], {})
        return encoded


class PromptModel(sd1_clip.SD1ClipModel):
    """The text model in the form that ComfyUI's CLIP holds."""

    def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: Any = None) -> None:
        super().__init__(
            device=device, dtype=dtype, name=_NAME, clip_model=TextModel, model_options=model_options or {}
        )


def make_clip(weights: Mapping[str, Tensor], source: str, *, disable_dynamic: bool = False) -> comfy.sd.CLIP:
    """ComfyUI's CLIP object around the text encoder's weights.

    Args:
        weights: under the names of transformers' T5EncoderModel, with the token embedding as `shared.weight`.
        source: the file, for messages.
        disable_dynamic: no dynamic VRAM; ComfyUI asks for it in some clones.
    """
    sizes = TextEncoderConfig.from_shapes(shapes_of(weights))
    clip = comfy.sd.CLIP(
        supported_models_base.ClipTarget(PromptTokenizer, PromptModel),
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
        tokenizer_data={"embedding_size": sizes.d_model},
        parameters=sum(weight.numel() for weight in weights.values()),
        model_options={
            "t5_config": _t5_config(sizes),
            "dtype": comfy.utils.weight_dtype(weights),
            "initial_device": torch.device("meta"),
        },
        disable_dynamic=disable_dynamic,
    )
    fill(getattr(clip.cond_stage_model, _NAME).transformer, weights, source, is_dynamic=clip.patcher.is_dynamic())
    return clip


def _t5_config(sizes: TextEncoderConfig) -> dict[str, Any]:
    """ComfyUI's T5 config of these sizes."""
    return {
        "model_type": "t5",
        "num_layers": sizes.num_layers,
        "d_model": sizes.d_model,
        "d_kv": sizes.d_kv,
        "num_heads": sizes.num_heads,
        "d_ff": sizes.d_ff,
        "vocab_size": sizes.vocab_size,
        "dense_act_fn": "gelu_pytorch_tanh",
        "is_gated_act": True,
    }
