"""fp8 weights and fp8 matrix products."""

from __future__ import annotations

import pytest
import torch
from narrow_cogvideox import build_transformer
from narrow_svd import TINY, build_unet, noise
from torch import nn

from exvideo_core.errors import ExVideoError
from exvideo_core.nn.effective_weights import effective_weights
from exvideo_core.nn.fp8 import check_products, multiply_in_fp8, store_in_fp8
from exvideo_core.runtime.memory import num_bytes

LAYERS = [
    (nn.Linear(32, 48), (5, 7, 32)),
    (nn.Linear(32, 48, bias=False), (7, 32)),
    (nn.Conv2d(32, 48, 3, padding=1, stride=2), (2, 32, 6, 5)),
    (nn.Conv3d(32, 48, (3, 1, 1), padding=(1, 0, 0)), (1, 32, 4, 3, 3)),
]


def copy_of(layer: nn.Module) -> nn.Module:
    """With weights of very different sizes, one output channel being nothing."""
    copy = nn.Sequential(type(layer)(**arguments(layer)))
    sizes = torch.logspace(-6, 4, 48).view(-1, *[1] * (layer.weight.ndim - 1))
    copy[0].weight.data = noise(*layer.weight.shape) * sizes
    copy[0].weight.data[3] = 0
    return copy.requires_grad_(False)


def arguments(layer: nn.Module) -> dict[str, object]:
    if isinstance(layer, nn.Linear):
        return {"in_features": 32, "out_features": 48, "bias": layer.bias is not None}
    return {
        "in_channels": 32,
        "out_channels": 48,
        "kernel_size": layer.kernel_size,
        "stride": layer.stride,
        "padding": layer.padding,
    }


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_weight_is_near_what_it_was(layer: nn.Module, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    network = copy_of(layer)
    network[0].weight.data[:8] *= 1e3  # as float16 can hold
    network.to(dtype)
    before = network[0].weight.clone()

    store_in_fp8(network)
    x = noise(*shape).to(dtype)
    with torch.inference_mode():
        weight, _ = effective_weights(network[0], x) or pytest.fail("no weights")

    assert weight.dtype == dtype
    peaks = before.abs().flatten(1).amax(1).view(-1, *[1] * (before.ndim - 1))
    # 3 bits after the leading one, and the smallest steps are 2^-9 of a range that ends at 256 or more
    error = (weight.double() - before.double()).abs()
    assert bool((error <= (before.abs().double() / 16).clamp(min=0) + peaks.double() * 2.0**-17).all())
    assert bool((weight[3] == 0).all())


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=str)
def test_a_layer_computes_with_the_weights_it_tells(layer: nn.Module, shape: tuple[int, ...]) -> None:
    network, x = copy_of(layer), noise(*shape)
    store_in_fp8(network)
    exact = copy_of(layer)
    with torch.inference_mode():
        weight, bias = effective_weights(network[0], x) or pytest.fail("no weights")
        exact[0].load_state_dict({"weight": weight, **({} if bias is None else {"bias": bias})})

        torch.testing.assert_close(network(x), exact(x))


def test_gradients_reach_the_input() -> None:
    network, x = copy_of(LAYERS[0][0]), noise(7, 32).requires_grad_()
    store_in_fp8(network)
    network(x).sum().backward()

    assert x.grad is not None
    assert network[0].weight.grad is None


@pytest.mark.parametrize("of_rows", [1.0, 1e-4, 3e4])
def test_products_in_8_bits(of_rows: float) -> None:
    network, x = copy_of(LAYERS[0][0]), noise(5, 7, 32) * of_rows
    x[2, 3] = 0
    exact = network(x)
    multiply_in_fp8(network)
    with torch.inference_mode():
        found = network(x)

        assert effective_weights(network[0], x) is None  # nobody may compute it in another way
    assert found.shape == exact.shape
    assert bool(found.isfinite().all())
    error = (found - exact).flatten(0, 1).norm(dim=0) / exact.flatten(0, 1).norm(dim=0).clamp(min=1e-9)
    assert 1e-3 < error[10:].max() < 0.08
    share = (found * exact).flatten(0, 1).sum(0) / exact.square().flatten(0, 1).sum(0)
    assert abs(float(share[10:].mean()) - 1) < 4e-3  # rounding goes both ways
    torch.testing.assert_close(found[2, 3], network[0].bias, rtol=1e-2, atol=1e-2)


def test_a_matrix_of_odd_sides_is_only_stored() -> None:
    network = nn.Sequential(nn.Linear(24, 40))
    multiply_in_fp8(network)

    with torch.inference_mode():
        assert effective_weights(network[0], noise(1, 24)) is not None


def test_old_cards_are_told_what_to_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **_more: object) -> None:
        raise RuntimeError("only supported on CUDA devices with compute capability >= 9.0 or 8.9")

    monkeypatch.setattr(torch, "_scaled_mm", refuse)

    with pytest.raises(ExVideoError, match=r"cannot multiply in fp8 \(only supported on .*Choose fp8 'weights'"):
        check_products(torch.device("cpu"))


def kinds(network: nn.Module) -> dict[str, int]:
    return {name: weight.dtype.itemsize for name, weight in network.named_parameters()}


def test_svd_keeps_what_is_small_and_matters() -> None:
    unet = build_unet(TINY, extension_frames=8)
    x, ids = noise(4, 8, 16, 16), torch.ones(1, 3)
    with torch.inference_mode():
        exact = unet(x, torch.tensor(0.3), noise(8), ids)
        before = num_bytes(unet)
        store_in_fp8(unet)
        found = unet(x, torch.tensor(0.3), noise(8), ids)

    assert 1e-3 < (found - exact).norm() / exact.norm() < 0.2
    assert num_bytes(unet) < 0.5 * before
    small = {name for name, size in kinds(unet).items() if size == 1}
    assert {
        "input_blocks.1.0.in_layers.2.weight",
        "input_blocks.1.1.extension.mix.weight",
        "middle_block.1.time_stack.0.ff.net.0.proj.weight",
        "output_blocks.11.1.proj_out.weight",
        "output_blocks.11.0.time_stack.out_layers.3.weight",
    } <= small
    kept = (
        "time_embed",
        "label_emb",
        "input_blocks.0.",
        "out.",
        ".bias",
        "norm",
        "emb_layers",
        "positions",
        "time_pos",
    )
    assert not [name for name in small if name.startswith(kept[:4]) or any(part in name for part in kept[4:])]


def test_cogvideox_keeps_what_is_small_and_matters() -> None:
    transformer = build_transformer()
    x, text = noise(1, 16, 3, 4, 6), noise(1, 226, 8)
    with torch.inference_mode():
        exact = transformer(x, 500, text)
        store_in_fp8(transformer)
        found = transformer(x, 500, text)

    assert 1e-3 < (found - exact).norm() / exact.norm() < 0.2
    small = {name for name, size in kinds(transformer).items() if size == 1}
    layers = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "ff.net.0.proj", "ff.net.2")
    assert small == {f"transformer_blocks.{block}.{layer}.weight" for block in range(2) for layer in layers}
