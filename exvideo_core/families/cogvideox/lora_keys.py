"""How LoRA files name CogVideoX's layers.

A key is [wrappers] + layer + suffix. Wrappers are the modules that the trainer had put around the transformer. The
layer is spelled as in diffusers (and here), DiffSynth or ComfyUI; kohya's scripts replace all its dots by underscores,
which can only be undone by knowing the layers. The suffix says which tensor of the pair it is.
"""

from __future__ import annotations

import re

from ...lora.keys import LoRAKeys
from ...weights.kind import FileKind
from ...weights.names import renamed
from . import detect
from .keys import LAYERS

_WRAPPERS = re.compile(r"((base_model|model|diffusion_model|transformer|pipe|dit)\.)*")
_KOHYA = re.compile(r"\Alora_(unet|transformer)_")
_BLOCKS = re.compile(r"\Atransformer_(?=blocks[._])")
_DOTTED = {_BLOCKS.sub("", spelling): spellings[0] for spellings in LAYERS for spelling in spellings}
_UNDERSCORED = {spelling.replace(".", "_"): layer for spelling, layer in _DOTTED.items()}
_TO_DIFFSYNTH = {f"{ours}.weight": f"{diffsynths}.weight" for ours, diffsynths, _ in LAYERS}


def layer_name(spelling: str) -> str | None:
    """Our name of a layer in any spelling and wrapping; None if CogVideoX has no such layer.

    >>> layer_name("diffusion_model.blocks.12.attn_out")
    'transformer_blocks.12.attn1.to_out.0'
    """
    wrapped = _WRAPPERS.sub("", spelling, count=1)
    name = _KOHYA.sub("", wrapped)
    return renamed(_BLOCKS.sub("", name), _DOTTED if name == wrapped else _UNDERSCORED)


def to_diffsynth_name(parameter: str) -> str:
    """DiffSynth's name of a weight of ours, used by the published LoRA: blocks.3.attn1.to_out.weight.

    ValueError if LoRAs do not change this weight.
    """
    name = renamed(parameter, _TO_DIFFSYNTH)
    if name is None:
        raise ValueError(f"{parameter!r} is no weight of CogVideoX that a LoRA changes")
    return name


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
