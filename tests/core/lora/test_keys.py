"""LoRAs of any family in the registry, told apart by their keys."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from exvideo_core import registry
from exvideo_core.families.cogvideox.lora_keys import LORA_KEYS
from exvideo_core.lora import apply_lora, attach, fit_lora, new_lora, read_lora, save_lora
from exvideo_core.lora.keys import LoRAKeys, keys_for
from exvideo_core.weights.detect import OTHER_LORA
from exvideo_core.weights.safetensors_files import open_weights


class Network(nn.Module):
    """Layers of a model whose LoRAs call them `toy_<number>`."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class Pipeline:
    def __init__(self) -> None:
        self.transformer = Network()


def layer_name(spelling: str) -> str | None:
    match = re.fullmatch(r"(?:toy_|layers\.)(\d)", spelling)
    return f"layers.{match[1]}" if match else None


TOY = LoRAKeys(
    title="Toy",
    layer_name=layer_name,
    export_name=lambda name: name.replace("layers.", "toy_"),
    kind=OTHER_LORA,
    hint=lambda _: "choose a Toy",
)


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    toy = replace(registry.FAMILIES[0], name="toy", lora=TOY)
    monkeypatch.setattr(registry, "FAMILIES", (*registry.FAMILIES, toy))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    lora = new_lora(Network(), ["0", "1"], rank=2)
    for pair in lora.pairs.values():
        pair.up.fill_(0.5)
    save_lora(tmp_path / "toy.safetensors", lora)
    return tmp_path / "toy.safetensors"


def test_the_keys_say_the_family() -> None:
    assert keys_for(["toy_0.lora_A.weight", "toy_0.lora_B.weight"]) is TOY
    assert keys_for(["layers.1.weight"]) is TOY
    assert keys_for(["blocks.0.attn1.to_q.lora_A.weight"]) is LORA_KEYS
    assert keys_for(["unknown"]) is LORA_KEYS


def test_a_family_s_lora_is_written_read_and_applied_by_its_names(file: Path) -> None:
    pipe, x = Pipeline(), torch.randn(3, 4)
    with torch.no_grad():
        attached = attach(pipe.transformer, read_lora(file))
        expected = pipe.transformer(x)
        attached.detach()
        before = pipe.transformer(x)
        report = apply_lora(pipe, file)
        merged = pipe.transformer(x)

    assert next(iter(open_weights(file))) == "toy_0.lora_A.default.weight"
    assert (report.weights, report.unused) == (2, 0)
    torch.testing.assert_close(merged, expected)
    assert not torch.allclose(merged, before)


def test_an_opened_file_is_not_opened_again(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_weights(file)
    monkeypatch.setattr("exvideo_core.lora.files.open_weights", None)

    assert list(read_lora(opened).pairs) == ["layers.0.weight", "layers.1.weight"]


def test_a_misfit_gets_the_family_s_hint(file: Path) -> None:
    with pytest.raises(Exception, match=r"4 would not; .* choose a Toy\. Nothing was changed\."):
        fit_lora(read_lora(file), {"layers.0.weight": (5, 4)})
