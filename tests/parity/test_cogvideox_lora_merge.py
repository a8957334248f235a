"""Merged LoRAs are the reference's to the bit: DiffSynth 1.1.9 on the same file and the same transformer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from narrow_cogvideox import NARROW, build_transformer
from safetensors.torch import load_file, save_file
from torch import Tensor

from exvideo_core.lora import LoRA, merge, new_lora, read_lora, save_lora
from parity.references import diffsynth
from parity.references_cogvideox import diffsynth_transformer

pytestmark = pytest.mark.parity

LAYERS = ("to_q", "to_k", "to_v", "to_out.0", "net.0.proj", "net.2", "norm1.linear")


def lora_file(folder: Path, rank: int = 16) -> Path:
    """Named as published."""
    torch.manual_seed(0)
    new = new_lora(build_transformer(NARROW.transformer), LAYERS, rank=rank)
    path = folder / "lora.safetensors"
    save_lora(path, LoRA(new.pairs, "lora"))
    weights = load_file(path)
    save_file(
        {key: torch.randn(weight.shape) if ".lora_B." in key else weight for key, weight in weights.items()}, path
    )
    return path


def reference_merge(path: Path, dtype: torch.dtype, strength: float) -> dict[str, Tensor]:
    reference: Any = diffsynth_transformer(build_transformer(NARROW.transformer).state_dict(), NARROW.transformer)
    reference.to(dtype)
    loader = diffsynth("models.lora").GeneralLoRAFromPeft()
    assert loader.match(reference, load_file(path)) is not None
    loader.load(reference, load_file(path), alpha=strength)
    return reference.state_dict()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("strength", [1.0, 0.3])
def test_merged_weights_are_diffsynth_s_to_the_bit(tmp_path: Path, dtype: torch.dtype, strength: float) -> None:
    path = lora_file(tmp_path)
    ours = build_transformer(NARROW.transformer).to(dtype)
    report = merge(ours, read_lora(path), strength)
    expected = reference_merge(path, dtype, strength)
    merged = diffsynth("models.cog_dit").CogDiT.state_dict_converter().from_diffusers(ours.state_dict())

    assert report.applied == 2 * 2 * len(LAYERS)
    assert merged.keys() == expected.keys()
    assert all(torch.equal(merged[name], expected[name]) for name in merged)
