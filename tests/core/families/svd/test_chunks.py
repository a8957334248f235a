"""SVD's UNet in chunks: equal results for every size of chunk, and inputs stay unchanged."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from narrow_svd import NARROW, TINY, build_unet, noise
from rounding import assert_equal_but_for_rounding
from torch import Tensor, nn

from exvideo_core.estimate.counting import count
from exvideo_core.families.svd import blocks, lazy_frames as skips
from exvideo_core.families.svd.transformer import SpatioTemporalTransformer
from exvideo_core.families.svd.unet import SVDUNet

WHOLE = 2**40
IDS = torch.tensor([[29.0, 127.0, 0.02]])


def inputs(frames: int = 5, height: int = 17, width: int = 10) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return noise(frames, 8, height, width), torch.tensor(0.3), noise(1, TINY.unet.context_dim, seed=1), IDS


@pytest.fixture(params=[None, 8], ids=["plain", "extended"])
def unet(request: pytest.FixtureRequest) -> SVDUNet:
    return build_unet(TINY, request.param)


def budgets(count: int) -> list[int]:
    """From one item at a time to all at once, evenly in the logarithm."""
    generator = random.Random(0)
    return [1, *(int(2 ** generator.uniform(8, 22)) for _ in range(count))]


def in_budget(budget: int) -> Callable[..., Tensor]:
    def call(unet: SVDUNet, *given: Tensor) -> Tensor:
        unet.chunk_bytes = budget
        return unet(*given)

    return call


@torch.inference_mode()
@pytest.mark.parametrize("budget", budgets(7))
def test_any_budget_gives_the_same(unet: SVDUNet, budget: int) -> None:
    assert_equal_but_for_rounding(unet, in_budget(budget), in_budget(WHOLE), *inputs())


@torch.inference_mode()
@pytest.mark.parametrize("budget", budgets(4))
@pytest.mark.parametrize("name", ["input_blocks.1.0", "input_blocks.4.0", "input_blocks.1.1", "output_blocks.5.1"])
def test_any_budget_gives_the_same_in_one_block(unet: SVDUNet, name: str, budget: int) -> None:
    block = unet.get_submodule(name)
    norm = block.norm if isinstance(block, SpatioTemporalTransformer) else block.in_layers[0]
    x_TCHW = blocks.channels_last(noise(5, norm.num_channels, 9, 6))
    conditions = noise(1, TINY.unet.time_dim, seed=1), noise(1, 1, TINY.unet.context_dim, seed=2)

    def within(budget: int) -> Callable[..., Tensor]:
        def call(block: nn.Module, x_TCHW: Tensor, embedding: Tensor, context: Tensor) -> Tensor:
            given = {"embedding": embedding, "context": context, "frame_ids": torch.arange(5)}
            return block(x_TCHW.clone(), blocks.UNetArgs(**given, chunk_bytes=budget))

        return call

    assert_equal_but_for_rounding(block, within(budget), within(WHOLE), x_TCHW, *conditions)


@torch.inference_mode()
@pytest.mark.parametrize("budget", [1, 4096, 2**18])
def test_chunks_equal_what_training_computes(unet: SVDUNet, budget: int) -> None:
    def training(unet: SVDUNet, *given: Tensor) -> Tensor:
        with torch.enable_grad():
            return unet(*given).detach()

    assert_equal_but_for_rounding(unet, in_budget(budget), training, *inputs())


@torch.inference_mode()
@pytest.mark.parametrize("budget", [1, 3000, 2**20])
def test_conditions_may_differ_by_frame(unet: SVDUNet, budget: int) -> None:
    x_TCHW, *_ = inputs(4)
    conditions = noise(4, seed=2), noise(4, 1, TINY.unet.context_dim, seed=3), IDS * torch.arange(1, 5)[:, None]

    assert_equal_but_for_rounding(unet, in_budget(budget), in_budget(WHOLE), x_TCHW, *conditions)


@torch.inference_mode()
@pytest.mark.parametrize("budget", [1, 2**40])
def test_what_was_given_is_not_changed(unet: SVDUNet, budget: int) -> None:
    given = inputs()
    before = [tensor.clone() for tensor in given]
    unet.chunk_bytes = budget
    unet(*given)

    assert all(map(torch.equal, given, before))


@torch.inference_mode()
@pytest.mark.parametrize("budget", [1, 2**40])
def test_a_second_call_gives_the_same(unet: SVDUNet, budget: int) -> None:
    unet.chunk_bytes = budget

    assert torch.equal(unet(*inputs()), unet(*inputs()))


@torch.inference_mode()
@pytest.mark.parametrize("budget", [1, 2**18, 2**40])
def test_skips_that_wait_on_the_host_change_nothing(unet: SVDUNet, budget: int) -> None:
    unet.chunk_bytes = budget
    expected = unet(*inputs())
    unet.offload_skip = skips.HostTensor

    assert torch.equal(unet(*inputs()), expected)


@torch.inference_mode()
def test_small_chunks_need_less_memory() -> None:
    def peak(budget: int) -> int:
        with torch.device("meta"):
            unet = SVDUNet(NARROW.unet).eval()
            unet.chunk_bytes = budget
            given = torch.empty(16, 8, 32, 32), torch.empty(()), torch.empty(1, NARROW.unet.context_dim), IDS.to("meta")
            return count(lambda: unet(*given)).peak

    assert peak(2**16) < 0.5 * peak(WHOLE)


@torch.inference_mode()
def test_skips_are_concatenated_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the up path, never more than a chunk is concatenated with its skip."""
    longest = 0

    def watched(tensors: list[Tensor], dim: int) -> Tensor:
        nonlocal longest
        longest = max(longest, len(tensors[0]))
        return torch.cat(tensors, dim)

    unet = build_unet(TINY, None)
    unet.chunk_bytes = 1
    monkeypatch.setattr(blocks, "torch", _Torch(watched))
    unet(*inputs())

    assert longest == 1


class _Torch:
    """torch with another `cat`."""

    def __init__(self, cat: object) -> None:
        self.cat = cat

    def __getattr__(self, name: str) -> object:
        return getattr(torch, name)
