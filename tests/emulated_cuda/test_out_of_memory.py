"""Out of memory on a card: understood whatever says it, then smaller chunks, and no trace on other cards."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from exvideo_core.nn.out_of_memory import SMALLEST_CHUNK, forget_error, free_unused, is_out_of_memory

from .cards import H200
from .device import EmulatedCuda
from .mini import mini_cogvideox, mini_svd
from .patches import emulated
from .pipelines import UNGUIDED, cogvideox_clip, is_orderly, prompts, svd_clip

UNDERSTOOD = [
    "CUDA out of memory. Tried to allocate 2.00 GiB",
    "CUDA error: out of memory",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "HIP out of memory. Tried to allocate 2.00 GiB",
    "MPS backend out of memory (MPS allocated: 5.00 GB",
    "XPU out of memory. Tried to allocate 2.00 GiB",
    # cuDNN 9's name of ALLOC_FAILED
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    # PyTorch's convolutions, if the workspace of no plan fits (pytorch#108645), with and without benchmarks of plans
    "GET was unable to find an engine to execute this computation",
    "FIND was unable to find an engine to execute this computation",
    # MPS for a single tensor, and Level Zero of Intel
    "Invalid buffer size: 25.31 GiB",
    "level_zero backend failed with error: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)",
]


@pytest.mark.parametrize("message", UNDERSTOOD)
def test_out_of_memory_is_understood(message: str) -> None:
    assert is_out_of_memory(RuntimeError(message))


def once(error: RuntimeError) -> Callable[[Tensor], bool]:
    """A convolution that fails at its first call."""
    errors = [error]

    def fails(_: Tensor) -> bool:
        if errors:
            raise errors.pop()
        return False

    return fails


FULL = "CUDA out of memory. Tried to allocate 2.00 GiB"
NO_ENGINE = "GET was unable to find an engine to execute this computation"
in_other_words = pytest.param(RuntimeError(NO_ENGINE), id="of a convolution")


@pytest.mark.parametrize("error", [pytest.param(torch.OutOfMemoryError(FULL), id="of PyTorch"), in_other_words])
def test_sampling_is_retried_in_smaller_chunks(cuda: EmulatedCuda, error: RuntimeError) -> None:
    pipe = mini_cogvideox(cuda)
    seen = []
    before = pipe.transformer.chunk_bytes
    cuda.convolution_fails = once(error)  # the first convolution is the patches'
    pipe(
        prompt_embeds=prompts(cuda, pipe)["prompt_embeds"],
        guidance_scale=1,
        num_frames=9,
        height=96,
        width=96,
        num_inference_steps=2,
        callback=lambda *_: seen.append(pipe.transformer.chunk_bytes),
    )

    assert seen[0] == before // 2
    assert pipe.transformer.chunk_bytes == before


@pytest.mark.parametrize("error", [pytest.param(torch.OutOfMemoryError(FULL), id="of PyTorch"), in_other_words])
def test_decoding_is_retried_in_smaller_chunks(cuda: EmulatedCuda, error: RuntimeError) -> None:
    vae = mini_svd(cuda).vae
    seen = []
    cuda.convolution_fails = once(error)
    with torch.inference_mode():
        vae.decode(torch.empty(4, 4, 16, 16, device="cuda"), lambda *_: seen.append(vae.chunk_bytes))

    assert seen == [vae.chunk_bytes // 2]


def test_smaller_chunks_end_somewhere(cuda: EmulatedCuda) -> None:
    vae = mini_svd(cuda).vae
    tried = []

    def fails(_: Tensor) -> bool:
        tried.append(vae.chunk_bytes)
        raise torch.OutOfMemoryError(FULL)

    cuda.convolution_fails = fails
    with torch.inference_mode(), pytest.raises(torch.OutOfMemoryError):
        vae.decode(torch.empty(4, 4, 16, 16, device="cuda"))

    assert tried == [vae.chunk_bytes >> halved for halved in range(9)]
    assert tried[-1] == SMALLEST_CHUNK


def test_memory_that_is_short_is_tried_again_and_again() -> None:
    """A card that has the weights and little more: the same clip, in more kernels."""
    with emulated(H200) as cuda:
        pipe = mini_cogvideox(cuda)
        cogvideox_clip(cuda, pipe, frames=9, height=240, width=352, steps=1)
        needed, plenty = cuda.memory.peak["cuda:0"], sum(cuda.costs.launches.values())
        assert cuda.memory.refusals == 0
        in_use = cuda.memory.now["cuda:0"]
        cuda.memory.num_bytes = in_use + int(0.7 * (needed - in_use))
        cogvideox_clip(cuda, pipe, frames=9, height=240, width=352, steps=1)

        assert cuda.memory.refusals > 0
        assert sum(cuda.costs.launches.values()) > 2 * plenty
        assert is_orderly(cuda)


# CUDA's last error


def test_the_last_error_is_forgotten(cuda: EmulatedCuda) -> None:
    cuda.last_error = "out of memory"
    forget_error()

    assert cuda.last_error is None
    torch.ones(2, device="cuda").add_(1)  # would report it


def test_another_card_is_left_alone() -> None:
    with emulated(H200) as cuda:
        pipe = mini_svd(cuda, device="cuda:1")
        cuda.convolution_fails = once(torch.OutOfMemoryError(FULL))
        pipe.vae.encode(torch.zeros(1, 3, 128, 128, device="cuda:1"))

        assert cuda.memory.peak["cuda:0"] == 0


def test_forgetting_an_error_is_no_error(cuda: EmulatedCuda) -> None:
    free_unused()

    assert torch.ones(2, device="cuda").is_cuda


def test_a_picture_is_encoded_though_the_encoder_finds_no_room() -> None:
    with emulated(H200) as cuda:
        pipe = mini_svd(cuda)
        cuda.memory.num_bytes = cuda.memory.now["cuda:0"] + 2**29  # less than the working space it leaves
        svd_clip(cuda, pipe, frames=2, size=128, steps=1, **UNGUIDED)

        assert {weight.device.type for weight in pipe.image_encoder.parameters()} == {"cpu"}
