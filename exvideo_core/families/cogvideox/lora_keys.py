"""How LoRA files name CogVideoX's layers.

A key is [wrappers] + layer + suffix. Wrappers are the modules that the trainer had put around the transformer. The
layer is spelled as in diffusers (and here), DiffSynth or ComfyUI; kohya's scripts replace all its dots by underscores,
which can only be undone by knowing the layers. The suffix says which tensor of the pair it is.
"""

from __future__ import annotations

import re

from ...lora.keys import LoRAKeys
from ...weights.kind import FileKind
from . import detect

# The layers in diffusers' names, in DiffSynth 1.1.9's (models/cog_dit.py), in ComfyUI 0.30's (ldm/cogvideo/model.py).
_BLOCK_LAYERS = (
    *((f"attn1.to_{letter}", f"attn1.to_{letter}", letter) for letter in "qkv"),
    ("attn1.to_out.0", "attn1.to_out", "attn_out"),
    *((f"attn1.norm_{letter}", f"norm_{letter}", f"norm_{letter}") for letter in "qk"),
    ("ff.net.0.proj", "ff.0", "ff_proj"),
    ("ff.net.2", "ff.2", "ff_out"),
    *((f"norm{i}.linear",) * 3 for i in (1, 2)),
)
_END_LAYERS = (
    ("patch_embed.proj", "patchify.proj", "patch_embed.proj"),
    ("patch_embed.text_proj", "context_embedder", "patch_embed.text_proj"),
    ("time_embedding.linear_1", "time_embedder.timestep_embedder.0", "time_embedding_linear_1"),
    ("time_embedding.linear_2", "time_embedder.timestep_embedder.2", "time_embedding_linear_2"),
    *((f"ofs_embedding.linear_{i}",) * 2 + (f"ofs_embedding_linear_{i}",) for i in (1, 2)),  # of 1.5, image to video
    ("norm_out.linear",) * 3,
    ("proj_out",) * 3,
)
_BLOCK = {spelling: names[0] for names in _BLOCK_LAYERS for spelling in names}
_END = {spelling: names[0] for names in _END_LAYERS for spelling in names}
_BLOCK_OF_KOHYA = {spelling.replace(".", "_"): layer for spelling, layer in _BLOCK.items()}
_END_OF_KOHYA = {spelling.replace(".", "_"): layer for spelling, layer in _END.items()}

_WRAPPERS = re.compile(r"((base_model|model|diffusion_model|transformer|pipe|dit)\.)*")
_KOHYA = re.compile(r"lora_(unet|transformer)_")


def layer_name(spelling: str) -> str | None:
    """Our name of a layer in any spelling and wrapping; None if CogVideoX has no such layer.

    >>> layer_name("diffusion_model.blocks.12.attn_out")
    'transformer_blocks.12.attn1.to_out.0'
    """
    name = _WRAPPERS.sub("", spelling, count=1)
    kohya = _KOHYA.match(name)
    if kohya:
        name = name[kohya.end() :]
        block = re.fullmatch(r"(?:transformer_)?blocks_(\d+)_(.+)", name)
        in_block, at_ends = _BLOCK_OF_KOHYA, _END_OF_KOHYA
    else:
        block = re.fullmatch(r"(?:transformer_)?blocks\.(\d+)\.(.+)", name)
        in_block, at_ends = _BLOCK, _END
    if block is None:
        return at_ends.get(name)
    layer = in_block.get(block[2])
    return f"transformer_blocks.{int(block[1])}.{layer}" if layer else None


def to_diffsynth_name(parameter: str) -> str:
    """DiffSynth's name of a weight of ours, used by the published LoRA: blocks.3.attn1.to_out.weight.

    Raises:
        ValueError: LoRAs do not change this weight.
    """
    match = re.fullmatch(r"(?:transformer_blocks\.(?P<block>\d+)\.)?(?P<layer>.+)\.weight", parameter)
    rows = _BLOCK_LAYERS if match and match["block"] else _END_LAYERS
    for ours, diffsynths, _ in rows:
        if match and ours == match["layer"]:
            place = f"blocks.{match['block']}." if match["block"] else ""
            return f"{place}{diffsynths}.weight"
    raise ValueError(f"{parameter!r} is no weight of CogVideoX that a LoRA changes")


def _hint(model: FileKind) -> str:
    if model.kind is detect.TRANSFORMER_2B:
        return model.kind.where
    if model.kind is detect.TRANSFORMER:
        return "choose the transformer this LoRA was made for; ExVideo's is THUDM/CogVideoX-5b"
    return "choose a LoRA that was made for this model, or the transformer of THUDM/CogVideoX-5b"


LORA_KEYS = LoRAKeys(
    title="CogVideoX",
    layer_name=layer_name,
    export_name=to_diffsynth_name,
    kind=detect.LORA,
    refused=(detect.IMAGE_TO_VIDEO, detect.TRANSFORMER_1_5),
    hint=_hint,
)
