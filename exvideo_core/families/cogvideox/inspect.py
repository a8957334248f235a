"""`exvideo inspect` for files of CogVideoX."""

from __future__ import annotations

from pathlib import Path

from ...family import Inspection
from ...lora import read_lora
from ...weights.kind import Kind
from ...weights.safetensors_files import WeightFile
from . import detect
from .checkpoint import read_text_encoder, read_transformer, read_vae
from .pipeline import build_text_encoder, build_transformer, build_vae


def load(source: Path | WeightFile, kind: Kind) -> str | None:
    """Load a network, or read a LoRA."""
    if kind is detect.LORA:
        return f"yes, over a transformer that has its {len(read_lora(source).pairs)} weights"
    if kind is detect.VAE:
        build_vae(read_vae(source))
    elif kind is detect.TEXT_ENCODER:
        build_text_encoder(read_text_encoder(source))
    elif kind in (detect.TRANSFORMER, detect.IMAGE_TO_VIDEO):
        build_transformer(read_transformer(source))
    else:
        return None
    return "yes"


INSPECTION = Inspection(folders=("transformer", "vae", "text_encoder"), load=load)
