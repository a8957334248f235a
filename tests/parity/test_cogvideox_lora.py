"""A transformer with a LoRA against DiffSynth-Studio's with the same file, and files that diffusers writes."""

from __future__ import annotations

import pytest
import torch
from narrow_cogvideox import NARROW, build_transformer
from narrow_svd import noise
from safetensors.torch import load_file

from exvideo_core.lora import LoRA, LoRAPair, attach, merge, new_lora, read_lora, remove_loras, save_lora
from parity import references_cogvideox as references
from parity.references import diffsynth

pytestmark = pytest.mark.parity

TOLERANCE = 1e-5
TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2")
CALL = noise(2, 16, 3, 8, 12), torch.tensor([999, 20]), noise(2, 12, NARROW.transformer.text_dim, seed=1)


def trained_lora(rank=8):
    """As after training: both factors matter, and the LoRA as much as the weights."""
    pairs = new_lora(build_transformer(NARROW.transformer), TARGETS, rank=rank).pairs
    factors = {
        name: LoRAPair(
            noise(*pair.down.shape, seed=2 * i) / pair.down.shape[1] ** 0.5,
            noise(*pair.up.shape, seed=2 * i + 1) / rank**0.5,
        )
        for i, (name, pair) in enumerate(pairs.items())
    }
    return LoRA(factors, source="trained")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "lora.safetensors"
    save_lora(path, trained_lora())
    return path


@pytest.fixture
def ours():
    return build_transformer(NARROW.transformer)


def reference(file, strength):
    """What DiffSynth predicts after its own loader has read the file."""
    transformer = references.diffsynth_transformer(
        build_transformer(NARROW.transformer).state_dict(), NARROW.transformer
    )
    loader = diffsynth("models.lora").GeneralLoRAFromPeft()
    assert loader.match(transformer, load_file(file)) is not None
    loader.load(transformer, load_file(file), alpha=strength)
    return transformer(*CALL)


@torch.inference_mode()
@pytest.mark.parametrize("strength", [1.0, 0.4, -0.5])
def test_merged_equals_diffsynth(strength, file, ours, relative_error):
    plain, expected = ours(*CALL), reference(file, strength)
    merge(ours, read_lora(file), strength)
    merged = ours(*CALL)
    remove_loras(ours)

    assert relative_error(merged, expected) <= TOLERANCE
    assert relative_error(plain, expected) > 0.1  # the LoRA matters
    assert torch.equal(ours(*CALL), plain)


@torch.inference_mode()
@pytest.mark.parametrize("strength", [1.0, 0.4])
def test_attached_equals_diffsynth_s_merged(strength, file, ours, relative_error):
    attached = attach(ours, read_lora(file), strength)
    beside = ours(*CALL)
    attached.detach()

    assert relative_error(beside, reference(file, strength)) <= TOLERANCE


@torch.inference_mode()
def test_a_file_that_diffusers_writes_is_the_same_lora(file, ours, tmp_path, relative_error):
    from diffusers.loaders import CogVideoXLoraLoaderMixin

    layers = {
        name.removesuffix(".weight") + f".{factor}.weight": tensor
        for name, pair in read_lora(file).pairs.items()
        for factor, tensor in (("lora_A", pair.down), ("lora_B", pair.up))
    }
    CogVideoXLoraLoaderMixin.save_lora_weights(tmp_path / "diffusers", transformer_lora_layers=layers)
    (written,) = (tmp_path / "diffusers").iterdir()
    report = merge(ours, read_lora(written))

    assert (report.applied, report.unused) == (len(layers), 0)
    assert relative_error(ours(*CALL), reference(file, 1.0)) <= TOLERANCE
