"""The roofline of a GPU: which kernels are charged, and what for."""

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks import predict
from benchmarks.cuda_kernels import Kernel, kernels_of
from benchmarks.predict import CARDS, seconds

LAST = torch.channels_last


def empty(*shape, dtype=torch.float16, layout=torch.contiguous_format):
    return torch.empty(shape, dtype=dtype, device="meta", memory_format=layout)


def kinds(call):
    return [kernel.kind for kernel in kernels_of(call)]


def test_a_convolution_is_charged_for_its_bias():
    x, weight, bias = empty(2, 16, 8, 8, layout=LAST), empty(32, 16, 3, 3, layout=LAST), empty(32)
    kernels = kernels_of(lambda: F.conv2d(x, weight, bias, padding=1))

    assert [kernel.kind for kernel in kernels] == ["convolution", "conv bias"]
    result = 2 * 32 * 8 * 8 * 2
    assert kernels[0].flops == 2 * 2 * 32 * 8 * 8 * 16 * 9
    assert kernels[0].num_bytes == x.nbytes + weight.nbytes + result
    assert kernels[1].num_bytes == 2 * result


def test_a_weight_that_is_not_channels_last_is_turned_at_every_call():
    x, weight = empty(2, 16, 8, 8, layout=LAST), empty(32, 16, 3, 3)

    assert kinds(lambda: F.conv2d(x, weight)) == ["convolution", "conv weight layout"]
    assert kinds(lambda: F.conv2d(x, weight.contiguous(memory_format=LAST))) == ["copy", "convolution"]


def test_channels_first_is_turned_in_16_bits_alone():
    for dtype, expected in ((torch.float16, ["convolution", "conv layout"]), (torch.float32, ["convolution"])):
        x, weight = empty(2, 16, 8, 8, dtype=dtype), empty(32, 16, 3, 3, dtype=dtype)

        assert kinds(lambda x=x, weight=weight: F.conv2d(x, weight)) == expected


def test_a_result_is_laid_out_as_cudnn_does():
    x, weight = empty(2, 16, 8, 8, layout=LAST), empty(32, 16, 3, 3, layout=LAST)
    seen = []
    kernels_of(lambda: seen.append(F.conv2d(x, weight)))

    assert seen[0].is_contiguous(memory_format=LAST)


def test_group_norm_copies_a_channels_last_input():
    norm = nn.GroupNorm(4, 16, device="meta", dtype=torch.float16)

    assert kinds(lambda: norm(empty(2, 16, 8, 8))) == ["group norm"]
    assert kinds(lambda: norm(empty(2, 16, 8, 8, layout=LAST))) == ["copy", "group norm"]


@pytest.fixture
def math_in_float32():
    """PyTorch's default for attention in 16 bits without a fused kernel; ComfyUI changes it."""
    before = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(False)
    yield
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(before)


@pytest.mark.usefixtures("math_in_float32")
def test_attention_of_four_axes_is_one_kernel_and_of_three_is_not():
    q = empty(2, 3, 2048, 64)
    fused = kernels_of(lambda: F.scaled_dot_product_attention(q, q, q))
    math = kernels_of(lambda: F.scaled_dot_product_attention(q[0], q[0], q[0]))

    assert [kernel.kind for kernel in fused] == ["attention"]
    assert fused[0].flops == 4 * 2 * 3 * 2048**2 * 64
    assert "attention" not in {kernel.kind for kernel in math}
    scores = 3 * 2048**2 * 4  # in float32
    assert sum(kernel.num_bytes for kernel in math) > 4 * scores
    assert sum(kernel.flops for kernel in math) == fused[0].flops / 2


def test_adding_to_a_part_stores_it_once():
    x, y = empty(8, 16), empty(4, 16)

    def add():
        x[:4] += y

    assert kinds(add) == ["elementwise"]


def test_a_result_that_has_its_place_already_is_written_and_not_read():
    x, out = empty(8, 16), empty(8, 16)

    (kernel,) = kernels_of(lambda: torch.mul(x, x, out=out))
    assert kernel.num_bytes == 3 * x.nbytes


def test_code_that_asks_for_cuda_takes_its_branch_and_no_longer():
    seen = []
    kernels_of(lambda: seen.append(empty(1).is_cuda))

    assert seen == [True]
    assert not empty(1).is_cuda


def test_where_names_the_models_functions():
    from exvideo_core.nn.chunks import map_chunks

    kernels = kernels_of(lambda: map_chunks(lambda rows: empty(8, 16)[rows] * 2, 8, 4))

    assert any("chunks.map_chunks" in kernel.where for kernel in kernels)


def test_a_kernel_takes_its_operations_or_its_bytes_whichever_is_longer():
    card = CARDS["H200"]
    copied = Kernel("copy", 0, 10**9)
    long_sums = Kernel("product", 10**13, 10**6, product=(128 * 132, 256, 1))  # one full wave
    idle = Kernel("product", 10**13, 10**6, product=(128, 256, 1))  # one tile: 131 processors wait
    tiny = Kernel("elementwise", 0, 16, launches=5)

    assert seconds([copied], card) == pytest.approx(10**9 / card.bandwidth)
    assert seconds([long_sums], card) == pytest.approx(10**13 / card.rates["product"])
    assert seconds([idle], card) == pytest.approx(132 * 10**13 / card.rates["product"])
    assert seconds([tiny], card) == pytest.approx(15e-6)


def test_the_command_prints_a_row_for_each_card_in_its_own_chunks(capsys):
    assert predict.main(["--job", "svd_bench", "--engine", "exvideo", "--json", "--top", "3"]) == 0

    lines = capsys.readouterr().out.splitlines()
    rows = [json.loads(line) for line in lines if line[0] == "{"]
    assert [(row["card"], row["chunk MiB"]) for row in rows] == [("H200", 4096), ("RTX 4090", 1024), ("RTX 3060", 256)]
    assert rows[0]["seconds"] < rows[1]["seconds"] < rows[2]["seconds"]
    assert len(lines) == 3 * (1 + 3)
