"""Renaming rules between ComfyUI's and diffusers' weight names of CogVideoX's transformer; ours are diffusers'.

A name that no rule matches raises an error. Names are without a prefix such as `model.diffusion_model.`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ...errors import CheckpointError

_SAME = ("patch_embed.proj", "patch_embed.text_proj", "norm_final", "norm_out.linear", "norm_out.norm", "proj_out")
_SAME_IN_BLOCKS = ("norm1.linear", "norm1.norm", "norm2.linear", "norm2.norm")
# ComfyUI 0.30, comfy/ldm/cogvideo/model.py; N is the block number
_TO_COMFYUI = {
    "time_embedding.linear_1": "time_embedding_linear_1",
    "time_embedding.linear_2": "time_embedding_linear_2",
    "transformer_blocks.N.attn1.to_q": "blocks.N.q",
    "transformer_blocks.N.attn1.to_k": "blocks.N.k",
    "transformer_blocks.N.attn1.to_v": "blocks.N.v",
    "transformer_blocks.N.attn1.to_out.0": "blocks.N.attn_out",
    "transformer_blocks.N.attn1.norm_q": "blocks.N.norm_q",
    "transformer_blocks.N.attn1.norm_k": "blocks.N.norm_k",
    "transformer_blocks.N.ff.net.0.proj": "blocks.N.ff_proj",
    "transformer_blocks.N.ff.net.2": "blocks.N.ff_out",
    **{f"transformer_blocks.N.{layer}": f"blocks.N.{layer}" for layer in _SAME_IN_BLOCKS},
    **dict(zip(_SAME, _SAME, strict=True)),
}
_FROM_COMFYUI = {comfyui: own for own, comfyui in _TO_COMFYUI.items()}
_POSITIONS = "patch_embed.pos_embedding"  # of the image-to-video model; a parameter without a layer
_NUMBER = re.compile(r"(?<=blocks\.)\d+")


def transformer_from_comfyui(name: str) -> str:
    """Rename a weight of ComfyUI's CogVideoX class (`blocks.7.q.weight`) to the transformer's name."""
    return _rename(name, _FROM_COMFYUI, "ComfyUI's")


def transformer_to_comfyui(name: str) -> str:
    """Rename a weight of the transformer to its name in ComfyUI's class; the inverse of `transformer_from_comfyui`."""
    return _rename(name, _TO_COMFYUI, "diffusers'")


def _rename(name: str, layers: Mapping[str, str], whose: str) -> str:
    layer, _, part = name.rpartition(".")
    new = layers.get(_NUMBER.sub("N", layer))
    if name == _POSITIONS:
        return name
    if new is None or part not in ("weight", "bias"):
        raise CheckpointError(
            f"{name!r} is not a weight of CogVideoX's transformer in {whose} naming; choose a file of that kind, or "
            f"download it again."
        )
    number = _NUMBER.search(layer)
    return f"{new.replace('.N.', f'.{number[0]}.') if number else new}.{part}"
