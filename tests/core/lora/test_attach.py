"""A LoRA beside the weights does the same as one in them, can be trained, and leaves no trace."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from narrow_cogvideox import TINY, build_transformer
from torch import Tensor, nn

from exvideo_core.errors import CheckpointError
from exvideo_core.families.cogvideox.transformer import CogVideoXTransformer
from exvideo_core.lora import AttachedLoRA, LoRA, LoRAPair, attach, merge, new_lora, read_lora, save_lora

EVERY_LAYER = (
    "to_q", "to_k", "to_v", "to_out.0", "net.0.proj", "net.2", "norm1.linear", "norm2.linear", "norm_out.linear",
    "patch_embed.proj", "text_proj", "linear_1", "linear_2", "proj_out",
)  # fmt: skip


def parameters(attached: AttachedLoRA) -> list[nn.Parameter]:
    return [factor for factors in attached.factors.values() for factor in factors.parameters()]


@pytest.fixture
def module() -> CogVideoXTransformer:
    return build_transformer()


def random_lora(module: nn.Module, targets: tuple[str, ...] = EVERY_LAYER, alpha: float | None = None) -> LoRA:
    generator = torch.Generator().manual_seed(0)
    lora = new_lora(module, targets, rank=2, alpha=alpha, generator=generator)
    pairs = {
        name: replace(pair, up=0.2 * torch.randn(pair.up.shape, generator=generator))
        for name, pair in lora.pairs.items()
    }
    return LoRA(pairs, "lora")


def predict(module: nn.Module, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    x_BCTHW = torch.randn(1, 16, 3, 4, 6, generator=generator).to(dtype)
    context_BLD = torch.randn(1, 5, TINY.transformer.text_dim, generator=generator).to(dtype)
    return module(x_BCTHW, torch.tensor(700.0), context_BLD)


def relative(one: Tensor, other: Tensor) -> float:
    return float(((one - other).abs().max() / other.abs().max()).detach())


@pytest.mark.parametrize(("strength", "alpha"), [(1.0, None), (0.4, 8.0), (-1.0, 1.0)])
def test_attached_equals_merged(module: CogVideoXTransformer, strength: float, alpha: float | None) -> None:
    lora = random_lora(module, alpha=alpha)
    plain = predict(module)
    attached = attach(module, lora, strength)
    beside = predict(module)
    attached.detach()
    merge(module, lora, strength)

    assert relative(beside, predict(module)) <= 1e-5
    assert relative(beside, plain) > 1e-2


def test_convolutions_take_flat_factors(module: CogVideoXTransformer) -> None:
    pair = random_lora(module, ("patch_embed.proj",)).pairs["patch_embed.proj.weight"]
    flat = LoRA({"patch_embed.proj.weight": LoRAPair(pair.down.flatten(1), pair.up.flatten(1))}, "lora")
    attached = attach(module, flat)
    beside = predict(module)
    attached.detach()
    merge(module, flat)

    assert relative(beside, predict(module)) <= 1e-5


def test_several_attached_loras_add_up(module: CogVideoXTransformer) -> None:
    lora = random_lora(module)
    halves = [attach(module, lora, 0.25), attach(module, lora, 0.75)]
    beside = predict(module)
    for attached in halves:
        attached.detach()
    attach(module, lora)

    assert relative(beside, predict(module)) <= 1e-5


def test_strength_can_change_between_calls(module: CogVideoXTransformer) -> None:
    plain = predict(module)
    attached = attach(module, random_lora(module))
    attached.strength = 0.0

    assert torch.equal(predict(module), plain)


def test_factors_are_float32_beside_half_precision_weights(module: CogVideoXTransformer) -> None:
    module.to(torch.bfloat16)
    lora = random_lora(module)
    attached = attach(module, lora)
    beside = predict(module, torch.bfloat16)
    attached.detach()
    merge(module, lora)

    assert {factor.dtype for factor in parameters(attached)} == {torch.float32}
    assert beside.dtype == torch.bfloat16
    assert relative(beside.float(), predict(module, torch.bfloat16).float()) < 5e-2


def test_names_of_the_module_stay_as_they_are(module: CogVideoXTransformer) -> None:
    def names() -> list[list[str]]:
        trees = (module.state_dict(), dict(module.named_modules()), dict(module.named_parameters()))
        return [list(tree) for tree in trees]

    before = names()
    attached = attach(module, random_lora(module))
    assert names() == before
    attached.detach()

    assert names() == before


def test_gradients_flow_into_the_factors_only(module: CogVideoXTransformer) -> None:
    attached = attach(module, random_lora(module))
    predict(module).square().mean().backward()

    assert all(weight.grad is None for weight in module.parameters())
    assert len(parameters(attached)) == 2 * len(attached.factors)
    assert all(factor.grad is not None and factor.grad.abs().max() > 0 for factor in parameters(attached))


def test_detaching_leaves_no_trace(module: CogVideoXTransformer) -> None:
    module.proj_out.requires_grad_(False)
    trainable = {name: weight.requires_grad for name, weight in module.named_parameters()}
    plain = predict(module)
    attached = attach(module, random_lora(module))
    attached.detach()

    assert torch.equal(predict(module), plain)
    assert {name: weight.requires_grad for name, weight in module.named_parameters()} == trainable


def test_a_new_lora_changes_nothing_yet(module: CogVideoXTransformer) -> None:
    plain = predict(module)
    attach(module, new_lora(module, EVERY_LAYER, rank=4))

    assert torch.equal(predict(module), plain)


def test_a_new_lora_targets_attention_in_the_published_way() -> None:
    module = build_transformer(replace(TINY.transformer, width=256))
    lora = new_lora(module, rank=16, alpha=4.0, generator=torch.Generator().manual_seed(0))
    downs = torch.stack([pair.down for pair in lora.pairs.values()])

    assert lora.pairs.keys() == {
        f"transformer_blocks.{block}.attn1.{layer}.weight"
        for block in range(2)
        for layer in ("to_q", "to_k", "to_v", "to_out.0")
    }
    assert (lora.rank, {pair.scale for pair in lora.pairs.values()}) == (16, {0.25})
    assert float(downs.std()) == pytest.approx(1 / 16, rel=0.02)


def test_a_new_lora_of_unknown_layers_is_a_mistake(module: CogVideoXTransformer) -> None:
    with pytest.raises(ValueError, match=r"no layer's name ends with \['to_z'\]"):
        new_lora(module, ("to_q", "to_z"), rank=4)


def test_what_was_trained_can_be_saved_read_and_merged(module: CogVideoXTransformer, tmp_path: Path) -> None:
    attached = attach(module, new_lora(module, rank=4, alpha=8.0))
    plain = predict(module).detach()
    optimizer = torch.optim.SGD(parameters(attached), lr=1.0)
    for _ in range(3):
        optimizer.zero_grad()
        (predict(module) - 2 * plain).square().mean().backward()
        optimizer.step()
    trained = predict(module).detach()
    lora = attached.lora()
    attached.detach()
    save_lora(tmp_path / "trained.safetensors", lora)
    merge(module, read_lora(tmp_path / "trained.safetensors"))

    assert relative(trained, plain) > 1e-3
    assert relative(predict(module).detach(), trained) <= 1e-5


def test_later_training_does_not_change_what_was_taken_out(module: CogVideoXTransformer) -> None:
    given = random_lora(module)
    attached = attach(module, given)
    taken = attached.lora()
    kept = {name: (pair.down.clone(), pair.up.clone()) for name, pair in given.pairs.items()}
    with torch.no_grad():
        for factor in parameters(attached):
            factor.add_(1)

    for lora in (given, taken):
        assert all(torch.equal(pair.down, kept[name][0]) for name, pair in lora.pairs.items())
        assert all(torch.equal(pair.up, kept[name][1]) for name, pair in lora.pairs.items())
    assert not any(pair.up.requires_grad for pair in taken.pairs.values())


def test_what_does_not_fit_is_not_attached(module: CogVideoXTransformer) -> None:
    other = build_transformer(replace(TINY.transformer, layers=3))
    plain = predict(module)
    with pytest.raises(CheckpointError, match="would apply"):
        attach(module, random_lora(other))

    assert torch.equal(predict(module), plain)
    assert all(weight.requires_grad for weight in module.parameters())


def test_norms_can_only_be_merged(module: CogVideoXTransformer) -> None:
    pair = LoRAPair(torch.ones(1, 1), torch.ones(TINY.transformer.head_dim, 1))
    norm = LoRA({"transformer_blocks.0.attn1.norm_q.weight": pair}, "lora")
    before = module.transformer_blocks[0].attn1.norm_q.weight.detach().clone()
    with pytest.raises(ValueError, match="can only be merged"):
        attach(module, norm)
    merge(module, norm)

    assert torch.equal(module.transformer_blocks[0].attn1.norm_q.weight.data, before + 1)
