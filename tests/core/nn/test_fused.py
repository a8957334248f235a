"""Chains of operations, compiled and not."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from narrow_svd import noise
from torch import Tensor

from exvideo_core.families.cogvideox import rope
from exvideo_core.nn import fused

SHAPES = [(5, 7), (9, 7), (1, 12)]
CHAINS = {
    "gated_gelu": lambda a, b: (noise(a, b, 16),),
    "scaled_silu": lambda a, b: (noise(1, 8, a, b), noise(8, 1, 1, seed=1), noise(8, 1, 1, seed=2)),
    "rotate_pairs": lambda a, b: (noise(a, b, 2, 16), noise(a, 1, 1, 8).cos(), noise(a, 1, 1, 8).sin()),
}
KNOWN: dict[str, Callable[..., Tensor]] = {
    "gated_gelu": lambda x: x[..., :8] * F.gelu(x[..., 8:]),
    "scaled_silu": lambda x, factor, summand: F.silu(x * factor + summand),
    "rotate_pairs": lambda x, cos, sin: torch.view_as_real(
        torch.view_as_complex(x.unflatten(-1, (-1, 2))) * torch.complex(cos, sin)
    ).flatten(-2),
}


@pytest.fixture
def fusing() -> Iterator[None]:
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("torch.compile needs a C++ compiler on the CPU")
    fused.fuse()
    yield
    fused.fuse(False)


@pytest.mark.parametrize("name", CHAINS)
@torch.inference_mode()
def test_chains_are_what_they_say(name: str) -> None:
    tensors = CHAINS[name](5, 7)

    torch.testing.assert_close(getattr(fused, name)(*tensors), KNOWN[name](*tensors))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the compiler
@pytest.mark.usefixtures("fusing")
@pytest.mark.parametrize("name", CHAINS)
@torch.inference_mode()
def test_compiled_chains_are_the_same_for_every_size(name: str) -> None:
    torch._dynamo.utils.counters.clear()
    for shape in SHAPES:
        for dtype in (torch.float32, torch.bfloat16):
            x, *others = CHAINS[name](*shape)
            found = getattr(fused, name)(x.to(dtype), *others)

            assert found.dtype == dtype
            close = {"rtol": 2e-2, "atol": 2e-2} if dtype == torch.bfloat16 else {}
            torch.testing.assert_close(found.float(), KNOWN[name](x.to(dtype).float(), *others), **close)
    stats = torch._dynamo.utils.counters["stats"]
    assert 0 < stats["unique_graphs"] <= 4  # one for each type, and for a size of 1
    assert not torch._dynamo.utils.counters["graph_break"]


@pytest.mark.parametrize("grad", [True, False])
def test_nothing_is_compiled_unasked_or_where_gradients_are_wanted(grad: bool) -> None:
    torch._dynamo.utils.counters.clear()
    fused.fuse(grad)
    try:
        with torch.set_grad_enabled(grad):
            fused.gated_gelu(noise(5, 16))
    finally:
        fused.fuse(False)

    assert not torch._dynamo.utils.counters["stats"]


@torch.inference_mode()
def test_rotary_positions_are_the_same_either_way(monkeypatch: pytest.MonkeyPatch) -> None:
    x, angles = noise(5, 2, 3, 16), noise(5, 1, 1, 8)
    turn = torch.polar(torch.ones_like(angles), angles)
    expected = rope.apply_rope(x, turn)
    monkeypatch.setattr(rope, "is_fused", lambda: True)

    torch.testing.assert_close(rope.apply_rope(x, turn), expected)
