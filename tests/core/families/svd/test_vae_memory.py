"""The autoencoders in chunks: equal results for every budget, and their memory at the published sizes."""

from __future__ import annotations

import copy
import random

import pytest
import torch
from narrow_cogvideox import build_vae as build_cog
from narrow_svd import build_vae, noise
from rounding import error, tolerance
from torch import Tensor, nn

from exvideo_core.estimate.counting import count
from exvideo_core.families.cogvideox.causal_conv import Past
from exvideo_core.families.cogvideox.config import VAEConfig as CogConfig
from exvideo_core.families.cogvideox.vae import CogVideoXVAE, Decoder, Encoder
from exvideo_core.families.svd.config import VAEConfig
from exvideo_core.families.svd.vae import VAE
from exvideo_core.nn import conv3d

SEEDS = range(8)
HALF = torch.float16
UNLIMITED = 2**60


def exactly(network: nn.Module, x: Tensor) -> Tensor:
    return copy.deepcopy(network).double()(x.double(), UNLIMITED)


@torch.inference_mode()
@pytest.mark.parametrize("seed", SEEDS)
def test_svd_decodes_the_same_within_any_budget(seed: int) -> None:
    chosen = random.Random(seed)
    decoder, size = build_vae(seed=seed).decoder, (chosen.randint(1, 8), 4, chosen.randint(2, 5), chosen.randint(1, 5))
    latents_TCHW = noise(*size, seed=seed)
    exact = exactly(decoder, latents_TCHW)
    near = tolerance(decoder(latents_TCHW, UNLIMITED), exact)

    for budget in (1, int(10 ** chosen.uniform(3, 4.5)), int(10 ** chosen.uniform(4, 6))):
        assert error(decoder(latents_TCHW, budget), exact) <= near


@torch.inference_mode()
@pytest.mark.parametrize("seed", SEEDS)
def test_svd_encodes_the_same_within_any_budget(seed: int) -> None:
    chosen = random.Random(seed)
    size = (chosen.randint(1, 3), 3, 8 * chosen.randint(2, 5), 8 * chosen.randint(1, 5))
    encoder, video_TCHW = build_vae(seed=seed).encoder, noise(*size, seed=seed)
    exact = exactly(encoder, video_TCHW)
    near = tolerance(encoder(video_TCHW, UNLIMITED), exact)

    for budget in (1, int(10 ** chosen.uniform(3, 5)), int(10 ** chosen.uniform(4, 6))):
        assert error(encoder(video_TCHW, budget), exact) <= near


@torch.inference_mode()
def test_svd_has_a_budget_of_its_own() -> None:
    vae, latents_TCHW, video_TCHW = build_vae(), noise(2, 4, 2, 3), noise(1, 3, 16, 16)
    vae.chunk_bytes = 2**12
    budgets: list[int] = []
    for part in (vae.decoder, vae.encoder):
        part.register_forward_pre_hook(lambda _, args: budgets.append(args[1]))
    vae.decode(latents_TCHW)
    vae.encode(video_TCHW)

    assert budgets == [2**12, 2**12]


def test_svd_with_gradients_is_not_cut() -> None:
    vae, latents_TCHW = build_vae(), noise(3, 4, 2, 3).requires_grad_()
    vae.decoder(latents_TCHW, 1).square().mean().backward()
    expected = latents_TCHW.grad
    with torch.no_grad():
        before = vae.decoder(latents_TCHW, 1).square().mean()
        direction = noise(3, 4, 2, 3, seed=1)
        after = vae.decoder(latents_TCHW + 1e-3 * direction, 1).square().mean()

    assert expected is not None
    assert float(after - before) == pytest.approx(1e-3 * float((expected * direction).sum()), rel=0.05, abs=1e-6)


@torch.inference_mode()
def test_a_layer_with_hooks_is_still_called() -> None:
    vae, latents_TCHW = build_vae(), noise(3, 4, 2, 3)
    for name, module in vae.decoder.named_modules():
        if name.endswith(("norm1", "conv2", "in_layers.0", "out_layers.3")):
            module.register_forward_hook(lambda _module, _inputs, out: 1.5 * out)

    assert error(vae.decoder(latents_TCHW, 1), vae.decoder(latents_TCHW, UNLIMITED)) <= 5e-6
    assert error(vae.decoder(latents_TCHW, 1), build_vae().decoder(latents_TCHW)) > 0.1


def published(sizes: VAEConfig) -> VAE:
    with torch.device("meta"):
        return VAE(sizes).half()


@pytest.mark.parametrize(("side", "gigabytes"), [(64, 1.4), (128, 4.0)])
def test_svd_s_window_at_its_published_size(side: int, gigabytes: float) -> None:
    """The reference holds 3.2 and 12.9 GB."""
    vae = published(VAEConfig())
    counts = count(lambda: vae.decoder(torch.empty(8, 4, side, side, dtype=HALF)))

    assert counts.peak <= gigabytes * 1e9


def test_svd_decodes_with_fewer_operations_than_the_reference() -> None:
    vae = published(VAEConfig())

    assert count(lambda: vae.decoder(torch.empty(8, 4, 64, 64, dtype=HALF))).total_flops <= 0.89 * 24.3e12


@pytest.mark.parametrize(("side", "gigabytes"), [(512, 0.4), (1024, 1.0)])
def test_svd_s_picture_at_its_published_size(side: int, gigabytes: float) -> None:
    vae = published(VAEConfig())

    assert count(lambda: vae.encoder(torch.empty(1, 3, side, side, dtype=HALF))).peak <= gigabytes * 1e9


def run_in_chunks(part: Decoder | Encoder, chunks: list[Tensor], budget: int) -> Tensor:
    """Pieces of a clip one after the other, as a clip is worked on."""
    past: Past = {}
    return torch.cat([part(chunk, past, budget) for chunk in chunks], dim=2)


def exactly_in_chunks(part: Decoder | Encoder, chunks: list[Tensor]) -> Tensor:
    return run_in_chunks(copy.deepcopy(part).double(), [chunk.double() for chunk in chunks], UNLIMITED)


@torch.inference_mode()
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("by_frames", [False, True], ids=["as on a CPU", "as on a GPU"])
def test_cogvideox_decodes_the_same_within_any_budget(
    seed: int, by_frames: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = random.Random(seed)
    decoder, cells = build_cog(seed=seed).decoder, (chosen.randint(2, 4), chosen.randint(1, 4))
    chunks = [noise(1, 16, frames, *cells, seed=seed) for frames in chosen.choice([(3, 2), (2, 2), (1,), (3,)])]
    exact = exactly_in_chunks(decoder, chunks)
    near = tolerance(run_in_chunks(decoder, chunks, UNLIMITED), exact)
    monkeypatch.setattr(conv3d, "_by_frames", lambda _: by_frames)

    for budget in (1, int(10 ** chosen.uniform(3, 5)), int(10 ** chosen.uniform(4, 6))):
        assert error(run_in_chunks(decoder, chunks, budget), exact) <= near


@torch.inference_mode()
@pytest.mark.parametrize("seed", SEEDS)
def test_cogvideox_encodes_the_same_within_any_budget(seed: int) -> None:
    chosen = random.Random(seed)
    encoder, size = build_cog(seed=seed).encoder, (8 * chosen.randint(2, 4), 8 * chosen.randint(1, 4))
    chunks = [noise(1, 3, frames, *size, seed=seed) for frames in chosen.choice([(9, 8), (8, 8), (1,), (13,), (6,)])]
    exact = exactly_in_chunks(encoder, chunks)
    near = tolerance(run_in_chunks(encoder, chunks, UNLIMITED), exact)

    for budget in (1, int(10 ** chosen.uniform(3, 5)), int(10 ** chosen.uniform(4, 6))):
        assert error(run_in_chunks(encoder, chunks, budget), exact) <= near


@torch.inference_mode()
def test_cogvideox_has_a_budget_of_its_own() -> None:
    vae = build_cog()
    vae.chunk_bytes = 2**12
    budgets: list[int] = []
    for part in (vae.decoder, vae.encoder):
        part.register_forward_pre_hook(lambda _, args: budgets.append(args[2]))
    vae.decode(noise(1, 16, 5, 2, 3))
    vae.encode(noise(1, 3, 9, 16, 16))

    assert budgets == [2**12] * 3


@torch.inference_mode()
def test_clips_side_by_side_keep_statistics_of_their_own() -> None:
    vae, latents_BCTHW, video_BCFHW = build_cog(), noise(2, 16, 3, 2, 3), noise(2, 3, 9, 16, 24)

    for part, given in ((vae.decoder, latents_BCTHW), (vae.encoder, video_BCFHW)):
        apart = torch.cat([part(clip, {}, 1) for clip in given.split(1)])
        assert error(part(given, {}, 1), apart) <= 5e-6


def test_cogvideox_with_gradients_is_not_cut() -> None:
    vae, latents_BCTHW = build_cog(), noise(1, 16, 3, 2, 3).requires_grad_()
    vae.decoder(latents_BCTHW, {}, 1).square().mean().backward()
    given = latents_BCTHW.grad
    latents_BCTHW.grad = None
    vae.decoder(latents_BCTHW, {}, UNLIMITED).square().mean().backward()

    assert given is not None
    assert latents_BCTHW.grad is not None
    assert bool(given.any())
    assert torch.equal(given, latents_BCTHW.grad)


@torch.inference_mode()
def test_a_causal_layer_with_hooks_is_still_called() -> None:
    vae, latents_BCTHW = build_cog(), noise(1, 16, 3, 2, 3)
    for name, module in vae.decoder.named_modules():
        if name.endswith(("norm1.norm_layer", "conv2.conv", "upsamplers.0.conv")):
            module.register_forward_hook(lambda _module, _inputs, out: 1.5 * out)
    whole = vae.decoder(latents_BCTHW, {}, UNLIMITED)

    assert error(vae.decoder(latents_BCTHW, {}, 1), whole) <= 5e-6
    assert error(whole, build_cog().decoder(latents_BCTHW, {}, UNLIMITED)) > 0.1


def test_cogvideox_at_its_published_size() -> None:
    """480x720 pixels; the reference holds 21.3 GB, of which 2.8 are the frames that the convolutions remember."""
    with torch.device("meta"):
        vae = CogVideoXVAE(CogConfig()).half()

    def decode() -> None:
        past: Past = {}
        for frames in (3, 2, 2):
            vae.decoder(torch.empty(1, 16, frames, 60, 90, dtype=HALF), past)

    def encode() -> None:
        past: Past = {}
        for frames in (9, 8):
            vae.encoder(torch.empty(1, 3, frames, 480, 720, dtype=HALF), past)

    assert count(decode).peak <= 5e9
    assert count(encode).peak <= 4e9


def test_cogvideox_decodes_with_fewer_operations_than_the_reference() -> None:
    with torch.device("meta"):
        vae = CogVideoXVAE(CogConfig()).half()
    past: Past = {}
    first, second = (
        count(lambda frames=frames: vae.decoder(torch.empty(1, 16, frames, 60, 90, dtype=HALF), past)).total_flops
        for frames in (3, 2)
    )

    assert first + 15 * second <= 0.95 * 827.6e12
