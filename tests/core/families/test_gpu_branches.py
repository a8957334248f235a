"""What networks compute differently on a GPU, tried on the CPU: biases in the next norm, norms by their statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from narrow_cogvideox import build_transformer, build_vae as build_cog
from narrow_svd import TINY, build_unet, build_vae, noise
from rounding import assert_equal_but_for_rounding
from torch import Tensor, nn

from exvideo_core.families.cogvideox.causal_conv import Past
from exvideo_core.families.svd import blocks
from exvideo_core.nn.kernels import Mode, checked, kernel_mode

WHOLE = 2**40
OnAGPU = Callable[[Callable[..., Tensor]], Callable[..., Tensor]]
IDS = torch.tensor([[29.0, 127.0, 0.02]])


@contextmanager
def as_on_a_gpu(mode: Mode) -> Iterator[None]:
    """Let tensors say that they are on one. No kernel runs on the CPU, so that their twins are what is seen.

    With the mode `auto`, networks leave to kernels what they would do themselves otherwise.
    """
    torch.Tensor.is_cuda = property(lambda _: True)  # type: ignore[assignment, method-assign]
    try:
        with kernel_mode(mode):
            yield
    finally:
        del torch.Tensor.is_cuda


@pytest.fixture(params=["off", "auto"], ids=["without kernels", "kernels"])
def on_a_gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> OnAGPU:
    monkeypatch.setattr(checked, "_takes", lambda x, _: x.is_cuda)  # float64 too
    monkeypatch.setattr(checked.Checked, "__call__", lambda self, *args, **kwargs: self.twin(*args, **kwargs))

    def on_a_gpu(call: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def there(network: nn.Module, *given: Tensor) -> Tensor:
            with as_on_a_gpu(request.param):
                return call(network, *given)

        return there

    return on_a_gpu


def last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last if x.ndim == 4 else torch.channels_last_3d)


@torch.inference_mode()
@pytest.mark.parametrize("budget", [1, 2**12, 2**15, WHOLE])
@pytest.mark.parametrize("extended", [None, 8], ids=["plain", "extended"])
def test_svds_unet(extended: int | None, budget: int, on_a_gpu: OnAGPU) -> None:
    def call(unet: nn.Module, *given: Tensor) -> Tensor:
        unet.chunk_bytes = budget
        return unet(*given)

    given = noise(5, 8, 17, 10), torch.tensor(0.3), noise(1, TINY.unet.context_dim, seed=1), IDS
    assert_equal_but_for_rounding(build_unet(TINY, extended), on_a_gpu(call), call, *given)


@torch.inference_mode()
@pytest.mark.parametrize("budget", [1, 2**12, WHOLE])
@pytest.mark.parametrize("frames", [1, 5], ids=["one time", "a time for each frame"])
@pytest.mark.parametrize("name", ["input_blocks.1.0", "input_blocks.4.0", "output_blocks.5.0"])
def test_a_residual_block_of_the_unet(name: str, frames: int, budget: int, on_a_gpu: OnAGPU) -> None:
    block = build_unet(TINY, 8).get_submodule(name)
    x_TCHW = last(noise(5, block.in_layers[0].num_channels, 9, 6))
    embedding_TC = noise(frames, TINY.unet.time_dim, seed=1)

    def call(block: nn.Module, x_TCHW: Tensor, embedding_TC: Tensor) -> Tensor:
        args = blocks.UNetArgs(
            embedding=embedding_TC,
            context=embedding_TC[:, None],
            frame_ids=torch.arange(5),
            chunk_bytes=budget,
        )
        return block(x_TCHW.clone(), args)

    assert_equal_but_for_rounding(block, on_a_gpu(call), call, x_TCHW, embedding_TC)


@torch.inference_mode()
@pytest.mark.parametrize("hooked", ["out_layers.3", "skip_connection", "in_layers.2"])
def test_a_layer_that_must_be_called_adds_its_own_bias(hooked: str, on_a_gpu: OnAGPU) -> None:
    block = build_unet(TINY, 8).get_submodule("input_blocks.4.0")
    block.get_submodule(hooked).register_forward_hook(lambda _module, _given, result: result * 1.5)
    x_TCHW, embedding_TC = last(noise(5, block.in_layers[0].num_channels, 9, 6)), noise(1, TINY.unet.time_dim, seed=1)

    def call(block: nn.Module, x_TCHW: Tensor, embedding_TC: Tensor) -> Tensor:
        args = blocks.UNetArgs(embedding=embedding_TC, context=embedding_TC[:, None], frame_ids=torch.arange(5))
        return block(x_TCHW.clone(), args)

    assert_equal_but_for_rounding(block, on_a_gpu(call), call, x_TCHW, embedding_TC)


@torch.inference_mode()
@pytest.mark.parametrize("budget", [1, 2**12, 2**16, WHOLE])
@pytest.mark.parametrize("part", ["decoder", "encoder"])
def test_svds_autoencoder(part: str, budget: int, on_a_gpu: OnAGPU) -> None:
    x_TCHW = noise(5, 4, 4, 3) if part == "decoder" else noise(2, 3, 32, 24)

    def call(coder: nn.Module, x_TCHW: Tensor) -> Tensor:
        return coder(x_TCHW, budget)

    assert_equal_but_for_rounding(getattr(build_vae(), part), on_a_gpu(call), call, last(x_TCHW))


@torch.inference_mode()
@pytest.mark.parametrize("budget", [1, 2**12, WHOLE])
@pytest.mark.parametrize("clips", [1, 2])
def test_cogvideoxs_transformer(clips: int, budget: int, on_a_gpu: OnAGPU) -> None:
    transformer = build_transformer()

    def call(transformer: nn.Module, *given: Tensor) -> Tensor:
        transformer.chunk_bytes = budget
        return transformer(*given)

    given = noise(clips, 16, 3, 8, 6), torch.tensor(500.0), noise(clips, 7, transformer.config.text_dim, seed=1)
    assert_equal_but_for_rounding(transformer, on_a_gpu(call), call, *given)


@torch.inference_mode()
def test_cross_attention_to_several_tokens(on_a_gpu: OnAGPU) -> None:
    def call(block: nn.Module, x_TLC: Tensor, context_TLD: Tensor) -> Tensor:
        x_TLC, shift_C = block((x_TLC.clone(), None), context_TLD, WHOLE)
        return x_TLC if shift_C is None else x_TLC + shift_C

    block = build_unet(TINY, 8).get_submodule("input_blocks.1.1.transformer_blocks.0")
    width = block.norm1.normalized_shape[0]
    given = noise(5, 12, width), noise(5, 3, TINY.unet.context_dim, seed=1)
    assert_equal_but_for_rounding(block, on_a_gpu(call), call, *given)


@torch.inference_mode()
@pytest.mark.parametrize("budget", [1, 2**14, WHOLE])
@pytest.mark.parametrize("part", ["decoder", "encoder"])
@pytest.mark.parametrize("clips", [1, 2])
def test_cogvideoxs_autoencoder(part: str, budget: int, clips: int, on_a_gpu: OnAGPU) -> None:
    x_BCTHW = noise(clips, 16, 3, 3, 4) if part == "decoder" else noise(clips, 3, 9, 24, 32)

    def call(coder: nn.Module, x_BCTHW: Tensor) -> Tensor:
        past: Past = {}
        coder(x_BCTHW, past, budget)
        return coder(x_BCTHW.flip(2), past, budget)  # the next temporal chunk, whose past is two different frames

    assert_equal_but_for_rounding(getattr(build_cog(), part), on_a_gpu(call), call, last(x_BCTHW))


@torch.inference_mode()
def test_svds_encoder_takes_as_many_frames_as_fit(on_a_gpu: OnAGPU) -> None:
    vae, calls, done = build_vae(), [], []
    vae.encoder.register_forward_pre_hook(lambda _, given: calls.append(len(given[0])))

    def call(vae: nn.Module, video_TCHW: Tensor) -> Tensor:
        vae.chunk_bytes = 3 * 4 * TINY.vae.widths[0] * 32 * 24 * video_TCHW.itemsize  # of three frames
        calls.clear()
        return vae.encode(video_TCHW, lambda *progress: done.append(progress))

    video_TCHW = noise(7, 3, 32, 24)
    assert_equal_but_for_rounding(vae, on_a_gpu(call), call, video_TCHW)
    on_a_gpu(call)(vae, video_TCHW)
    assert calls == [2, 2, 3]
    assert done[-3:] == [(2, 7), (4, 7), (7, 7)]
    call(vae, video_TCHW)
    assert calls == [1] * 7
