"""SVD's autoencoder: frames one by one in, overlapping windows out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from narrow_svd import NARROW, TINY, build_vae, noise
from torch import nn

from exvideo_core.errors import CheckpointError
from exvideo_core.families.svd.config import VAEConfig
from exvideo_core.families.svd.vae import VAE


class CancelError(Exception):
    """What a host raises from a progress callback."""


@pytest.fixture
def vae() -> VAE:
    return build_vae()


def calls_of(module: nn.Module) -> list[tuple[int, ...]]:
    """A list that grows by the input's shape with every call."""
    calls: list[tuple[int, ...]] = []
    module.register_forward_pre_hook(lambda _, args: calls.append(tuple(args[0].shape)))
    return calls


@torch.inference_mode()
def test_frames_are_encoded_by_themselves(vae: VAE) -> None:
    video_TCHW = noise(3, 3, 16, 24)
    latents_TCHW = vae.encode(video_TCHW)

    assert latents_TCHW.shape == (3, 4, 2, 3)
    for index in range(3):
        torch.testing.assert_close(latents_TCHW[index], vae.encode(video_TCHW[index : index + 1])[0])


@pytest.mark.parametrize(("height", "width"), [(16, 20), (12, 16)])
def test_sides_that_are_no_multiples_of_8_are_an_error(vae: VAE, height: int, width: int) -> None:
    with pytest.raises(ValueError, match=f"multiples of 8, not {height} and {width}"):
        vae.encode(torch.zeros(1, 3, height, width))


@torch.inference_mode()
@pytest.mark.parametrize("frames", [1, 2, 8])
def test_a_clip_of_one_window_is_decoded_at_once(vae: VAE, frames: int) -> None:
    latents_TCHW = noise(frames, 4, 2, 3)
    decoded_TCHW = vae.decode(latents_TCHW)

    assert decoded_TCHW.shape == (frames, 3, 16, 24)
    torch.testing.assert_close(decoded_TCHW, vae.decoder(latents_TCHW))


@torch.inference_mode()
def test_what_only_one_window_covers_comes_from_it(vae: VAE) -> None:
    latents_TCHW = noise(12, 4, 2, 3)
    decoded_TCHW = vae.decode(latents_TCHW)

    torch.testing.assert_close(decoded_TCHW[:4], vae.decoder(latents_TCHW[:8])[:4])
    torch.testing.assert_close(decoded_TCHW[8:], vae.decoder(latents_TCHW[4:])[4:])


@torch.inference_mode()
def test_what_two_windows_cover_is_their_weighted_mean(vae: VAE) -> None:
    latents_TCHW = noise(12, 4, 8, 8)  # large enough that the border is wider than a window
    first, second = vae.decoder(latents_TCHW[:8]), vae.decoder(latents_TCHW[4:])
    share = torch.tensor([4, 3, 2, 1]) / torch.tensor([5, 5, 5, 5])  # of the first: 4..1 against 1..4
    expected_TCHW = share.view(4, 1, 1, 1) * first[4:] + (1 - share).view(4, 1, 1, 1) * second[:4]

    torch.testing.assert_close(vae.decode(latents_TCHW)[4:8], expected_TCHW)


@torch.inference_mode()
@pytest.mark.parametrize("axis", [2, 3])
def test_long_sides_are_tiled(vae: VAE, axis: int) -> None:
    shape = [1, 4, 2, 2]
    shape[axis] = 136
    latents_TCHW = noise(*shape)
    decoded_TCHW = vae.decode(latents_TCHW)
    first, second = (vae.decoder(latents_TCHW.narrow(axis, start, length)) for start, length in ((0, 128), (32, 104)))

    torch.testing.assert_close(decoded_TCHW.narrow(axis, 0, 256), first.narrow(axis, 0, 256))
    torch.testing.assert_close(decoded_TCHW.narrow(axis, 1024, 64), second.narrow(axis, 768, 64))


@torch.inference_mode()
@pytest.mark.parametrize(("frames", "windows"), [(8, 1), (9, 2), (12, 2), (13, 3), (128, 31)])
def test_decoding_tells_its_progress(frames: int, windows: int) -> None:
    vae, done = build_vae(), []
    calls = calls_of(vae.decoder)

    vae.decode(noise(frames, 4, 1, 1), lambda *progress: done.append(progress))

    assert done == [(index, windows) for index in range(1, windows + 1)]
    assert len(calls) == windows
    assert all(shape[0] <= 8 for shape in calls)


@torch.inference_mode()
def test_encoding_tells_its_progress(vae: VAE) -> None:
    done: list[tuple[int, int]] = []

    vae.encode(noise(3, 3, 16, 16), lambda *progress: done.append(progress))

    assert done == [(1, 3), (2, 3), (3, 3)]


@torch.inference_mode()
@pytest.mark.parametrize("part", ["encode", "decode"])
def test_an_exception_from_the_progress_stops_at_once(vae: VAE, part: str) -> None:
    def cancel(done: int, _: int) -> None:
        if done == 2:
            raise CancelError

    calls = calls_of(vae.encoder if part == "encode" else vae.decoder)
    given = noise(20, 3, 16, 16) if part == "encode" else noise(20, 4, 1, 1)

    with pytest.raises(CancelError):
        getattr(vae, part)(given, cancel)
    assert len(calls) == 2


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_float32_pixels_close_to_those_of_float32(dtype: torch.dtype) -> None:
    latents_TCHW, exact = noise(9, 4, 2, 2), build_vae(NARROW)
    expected_TCHW = exact.decode(latents_TCHW)
    half = build_vae(NARROW).to(dtype)
    decoded_TCHW = half.decode(latents_TCHW)

    assert decoded_TCHW.dtype == torch.float32
    assert float((decoded_TCHW - expected_TCHW).square().mean().sqrt()) < 0.1 * float(expected_TCHW.std())
    assert half.encode(noise(1, 3, 16, 16)).dtype == dtype


@torch.inference_mode()
def test_without_quant_conv_the_encoder_s_own_moments_count(vae: VAE) -> None:
    plain = VAE(TINY.vae, quantised=False).eval()
    plain.load_state_dict({name: w for name, w in vae.state_dict().items() if not name.startswith("quant_conv")})
    video_TCHW = noise(1, 3, 16, 16)

    torch.testing.assert_close(plain.encode(video_TCHW), vae.encoder(video_TCHW)[:, :4])


@pytest.mark.parametrize(
    "config",
    [VAEConfig(), NARROW.vae, TINY.vae, VAEConfig(widths=(8, 16), blocks_per_level=3, latent_channels=16)],
    ids=["published", "narrow", "tiny", "other"],
)
def test_sizes_are_read_from_the_weights(config: VAEConfig) -> None:
    with torch.device("meta"):
        weights = VAE(config).state_dict()

    assert VAEConfig.from_shapes({name: tuple(weight.shape) for name, weight in weights.items()}) == config


def test_an_autoencoder_without_decoder_is_an_error(vae: VAE) -> None:
    shapes = {name: tuple(w.shape) for name, w in vae.state_dict().items() if not name.startswith("decoder.")}

    with pytest.raises(CheckpointError, match="not a complete SVD autoencoder"):
        VAEConfig.from_shapes(shapes)


@torch.inference_mode()
def test_frames_of_a_window_see_each_other(vae: VAE) -> None:
    latents_TCHW = noise(4, 4, 2, 2)
    changed_TCHW = latents_TCHW.clone()
    changed_TCHW[1] += 1
    difference = (vae.decode(changed_TCHW) - vae.decode(latents_TCHW)).abs().amax(dim=(1, 2, 3))

    assert bool((difference > 1e-4).all())


def test_levels_may_have_any_widths() -> None:
    config = replace(TINY.vae, widths=(8, 16, 24, 40))

    with torch.inference_mode():
        assert VAE(config).decode(noise(1, 4, 1, 2)).shape == (1, 3, 8, 16)
