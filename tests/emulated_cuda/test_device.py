"""The emulation itself keeps CUDA's rules: what it accepts means something only if it refuses the rest."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from .cards import H200, RTX_2080, Card
from .device import EmulatedCuda
from .memory import BLOCK
from .patches import emulated

HALF = torch.float16


def test_nothing_is_left_of_it() -> None:
    before = torch.cuda.is_available(), torch.cuda.Stream, F.scaled_dot_product_attention, torch.Tensor.contiguous
    with emulated():
        assert torch.cuda.is_available()

    assert before == (
        torch.cuda.is_available(), torch.cuda.Stream, F.scaled_dot_product_attention, torch.Tensor.contiguous
    )  # fmt: skip


def test_a_card_is_what_pytorch_says() -> None:
    with emulated(RTX_2080.with_memory(4)):
        assert torch.cuda.get_device_name(0) == "NVIDIA GeForce RTX 2080"
        assert torch.cuda.get_device_capability("cuda:1") == (7, 5)
        assert torch.cuda.mem_get_info() == (4 * 2**30, 4 * 2**30)


def test_memory_is_counted_in_blocks_and_given_back(cuda: EmulatedCuda) -> None:
    x = torch.empty(3, device="cuda")
    y = torch.empty(BLOCK + 1, dtype=torch.uint8, device="cuda:1")

    assert (cuda.memory.now["cuda:0"], cuda.memory.now["cuda:1"]) == (BLOCK, 2 * BLOCK)
    del x, y
    assert (cuda.memory.now["cuda:0"], cuda.memory.peak["cuda:1"]) == (0, 2 * BLOCK)


def test_views_take_no_memory_and_keep_it(cuda: EmulatedCuda) -> None:
    view = torch.empty(1024, device="cuda").view(32, 32)[3]

    assert cuda.memory.now["cuda:0"] == 4096
    del view
    assert cuda.memory.now["cuda:0"] == 0


def test_more_than_a_card_has_is_out_of_memory() -> None:
    with emulated(H200.with_memory(1)) as cuda:
        x = torch.empty(2**30, dtype=torch.uint8, device="cuda")
        with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
            torch.empty(1, device="cuda")
        del x

        assert torch.empty(1, device="cuda").is_cuda
        assert cuda.memory.refusals == 1


@pytest.mark.parametrize("other", ["cpu", "cuda:1"])
def test_tensors_of_two_devices_do_not_add(cuda: EmulatedCuda, other: str) -> None:
    with pytest.raises(RuntimeError, match="same device"):
        torch.ones(2, device="cuda:0") + torch.ones(2, device=other)


def test_reading_a_number_waits(cuda: EmulatedCuda) -> None:
    x = torch.ones(2, device="cuda")
    assert bool((x == 1).all())
    assert float(x.sum())
    x.cpu()
    torch.ones(2).to("cuda")

    assert cuda.costs.waits == {"item": 2, "D2H": 1, "H2D": 1}


def test_only_locked_memory_is_copied_without_a_wait(cuda: EmulatedCuda) -> None:
    locked = torch.empty_like(torch.empty(1024, device="cuda"), device="cpu", pin_memory=True)
    locked.to("cuda", non_blocking=True)
    assert not cuda.costs.waits

    torch.empty(1024).to("cuda", non_blocking=True)
    assert cuda.costs.waits == {"H2D": 1}
    assert cuda.costs.pageable == {"H2D": 1}


def test_a_kernel_is_launched_for_each_operation_but_not_for_views(cuda: EmulatedCuda) -> None:
    x = torch.zeros(4, 4, device="cuda")
    x.t()[1:].add_(1)

    assert cuda.costs.launches == {"zeros": 1, "add_": 1}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_convolution_keeps_the_layout_of_its_input(cuda: EmulatedCuda, layout: torch.memory_format) -> None:
    x = torch.empty(2, 8, 6, 6, device="cuda").to(memory_format=layout)
    weight = torch.empty(8, 8, 3, 3, device="cuda")

    assert F.conv2d(x, weight, padding=1).is_contiguous(memory_format=layout)
    assert cuda.costs.convolutions["channels first"] == (layout is torch.contiguous_format)
    assert cuda.costs.convolutions["weights re-laid"] == (layout is torch.channels_last)


def test_a_group_norm_gives_channels_first(cuda: EmulatedCuda) -> None:
    x = torch.empty(2, 8, 6, 6, device="cuda").to(memory_format=torch.channels_last)

    assert F.group_norm(x, 2).is_contiguous()


def test_attention_without_a_kernel_holds_its_scores_several_times(cuda: EmulatedCuda) -> None:
    q = torch.empty(1, 1, 2048, 64, dtype=HALF, device="cuda")
    F.scaled_dot_product_attention(q[0], q[0], q[0])
    scores = 4 * 2048**2

    assert cuda.costs.attention == {"math": 1}
    assert cuda.costs.scores == scores
    assert 3.2 * scores < cuda.memory.peak["cuda:0"] < 3.6 * scores


def test_attention_with_a_kernel_holds_no_scores(cuda: EmulatedCuda) -> None:
    q = torch.empty(1, 1, 2048, 64, dtype=HALF, device="cuda")
    F.scaled_dot_product_attention(q, q, q)

    assert cuda.costs.attention == {"flash": 1}
    assert cuda.memory.peak["cuda:0"] < 3 * q.nbytes


def test_an_old_card_has_no_kernel_for_bfloat16() -> None:
    with emulated(RTX_2080) as cuda:
        q = torch.empty(1, 1, 128, 64, dtype=torch.bfloat16, device="cuda")
        F.scaled_dot_product_attention(q, q, q)
        F.scaled_dot_product_attention(q.half(), q.half(), q.half())

        assert cuda.costs.attention == {"math": 1, "efficient": 1}


def test_an_error_of_cuda_is_reported_by_the_next_kernel(cuda: EmulatedCuda) -> None:
    cuda.last_error = "out of memory"
    x = torch.zeros(2, device="cuda")  # by a memset
    with pytest.raises(RuntimeError, match="CUDA error: out of memory"):
        x + 1

    assert (x + 1).is_cuda


@pytest.mark.parametrize("card", [H200, RTX_2080], ids=lambda card: card.name)
def test_only_some_cards_multiply_in_fp8(card: Card) -> None:
    with emulated(card):
        a = torch.empty(32, 64, device="cuda").to(torch.float8_e4m3fn)
        b = torch.empty(16, 64, device="cuda").to(torch.float8_e4m3fn).t()
        scales = torch.ones(32, 1, device="cuda"), torch.ones(1, 16, device="cuda")
        if card is RTX_2080:
            with pytest.raises(RuntimeError, match="only supported"):
                torch._scaled_mm(a, b, *scales, out_dtype=torch.bfloat16)
        else:
            assert torch._scaled_mm(a, b, *scales, out_dtype=torch.bfloat16).shape == (32, 16)
