"""CogVideoX's autoencoder: temporal chunks in order, with a cache of past frames in each convolution."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from narrow_cogvideox import NARROW, TINY, build_vae
from narrow_svd import noise
from rounding import error, tolerance
from torch import Tensor, nn

from exvideo_core.errors import CheckpointError
from exvideo_core.families.cogvideox.causal_conv import CausalConv3d, Past
from exvideo_core.families.cogvideox.config import VAEConfig
from exvideo_core.families.cogvideox.geometry import GEOMETRY
from exvideo_core.families.cogvideox.norms import latent_frame_of
from exvideo_core.families.cogvideox.vae import CogVideoXVAE, temporal_chunks


class CancelError(Exception):
    """What a host raises from a progress callback."""


@pytest.fixture
def vae() -> CogVideoXVAE:
    return build_vae()


def latents(frames: int, height: int = 2, width: int = 3, batch: int = 1, seed: int = 0) -> Tensor:
    return noise(batch, 16, frames, height, width, seed=seed)


def video(frames: int, height: int = 16, width: int = 24, batch: int = 1, seed: int = 0) -> Tensor:
    return noise(batch, 3, frames, height, width, seed=seed).clamp(-1, 1)


def calls_of(module: nn.Module) -> list[tuple[int, ...]]:
    """A list that grows by the input's shape with every call."""
    calls: list[tuple[int, ...]] = []
    module.register_forward_pre_hook(lambda _, args: calls.append(tuple(args[0].shape)))
    return calls


# how a clip is cut


@pytest.mark.parametrize(
    ("length", "size", "expected"),
    [
        (1, 2, [(0, 1)]),
        (2, 2, [(0, 2)]),
        (3, 2, [(0, 3)]),
        (4, 2, [(0, 2), (2, 4)]),
        (5, 2, [(0, 3), (3, 5)]),
        (7, 8, [(0, 7)]),
        (9, 8, [(0, 9)]),
        (13, 8, [(0, 13)]),
        (16, 8, [(0, 8), (8, 16)]),
        (17, 8, [(0, 9), (9, 17)]),
    ],
)
def test_the_first_piece_takes_what_is_left_over(length: int, size: int, expected: list[tuple[int, int]]) -> None:
    assert list(temporal_chunks(length, size)) == expected


def test_the_published_clip_is_16_pieces_of_both_kinds() -> None:
    assert [end - start for start, end in temporal_chunks(33, 2)] == [3] + [2] * 15
    assert [end - start for start, end in temporal_chunks(129, 8)] == [9] + [8] * 15


@pytest.mark.parametrize(
    ("frames", "latent_frames", "expected"),
    [
        (1, 1, [0]),
        (2, 2, [0, 1]),
        (3, 3, [0, 1, 2]),
        (5, 3, [0, 1, 1, 2, 2]),
        (9, 3, [0, 1, 1, 1, 1, 2, 2, 2, 2]),
        (8, 2, [0, 0, 0, 0, 1, 1, 1, 1]),
    ],
)
def test_every_frame_of_a_piece_belongs_to_a_latent_frame(frames: int, latent_frames: int, expected: list[int]) -> None:
    assert latent_frame_of(frames, latent_frames).tolist() == expected


# one convolution


def test_a_convolution_over_pieces_is_that_over_the_clip() -> None:
    conv, x_BCFHW = CausalConv3d(4, 4, nn), noise(1, 4, 9, 5, 5)
    past: Past = {}
    chunks = [conv(x_BCFHW[:, :, start:end], past) for start, end in ((0, 3), (3, 4), (4, 9))]

    torch.testing.assert_close(torch.cat(chunks, dim=2), conv(x_BCFHW, {}))


def test_before_the_first_frame_there_are_copies_of_it() -> None:
    conv, x_BCFHW = CausalConv3d(4, 4, nn), noise(1, 4, 1, 5, 5)
    still = conv(x_BCFHW.expand(-1, -1, 3, -1, -1), {})

    for frame in range(3):
        torch.testing.assert_close(still[:, :, frame], conv(x_BCFHW, {})[:, :, 0])


def test_only_the_last_two_frames_are_remembered() -> None:
    conv, past = CausalConv3d(4, 4, nn), Past()
    conv(noise(1, 4, 9, 5, 5), past)

    assert len(past[conv]) == 2
    for frame in past[conv]:
        assert frame.shape == (1, 4, 1, 5, 5)
        assert frame.untyped_storage().nbytes() == frame.nbytes  # not a view that keeps the clip alive


# whole clips


@torch.inference_mode()
@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5])
def test_a_latent_cell_is_8x8_pixels_of_4_frames(vae: CogVideoXVAE, frames: int) -> None:
    decoded = vae.decode(latents(frames, batch=2))

    assert decoded.shape == (2, 3, GEOMETRY.frames_of(frames), 16, 24)
    assert decoded.dtype == torch.float32


@torch.inference_mode()
@pytest.mark.parametrize(
    ("frames", "latent_frames"), [(1, 1), (2, 1), (5, 2), (8, 2), (9, 3), (13, 4), (17, 5), (33, 9)]
)
def test_any_number_of_frames_is_encoded(vae: CogVideoXVAE, frames: int, latent_frames: int) -> None:
    assert vae.encode(video(frames, batch=2)).shape == (2, 16, latent_frames, 2, 3)


@torch.inference_mode()
@pytest.mark.parametrize("part", ["encode", "decode"])
def test_clips_are_worked_on_by_themselves(vae: CogVideoXVAE, part: str) -> None:
    given = video(9, batch=2) if part == "encode" else latents(3, batch=2)

    def apart(vae: CogVideoXVAE, given: Tensor) -> Tensor:
        return torch.cat([getattr(vae, part)(clip) for clip in given.split(1)])

    expected, exact = apart(vae, given), apart(copy.deepcopy(vae).double(), given.double())
    assert error(getattr(vae, part)(given), exact) <= tolerance(expected, exact)


@torch.inference_mode()
@pytest.mark.parametrize(("changed", "unchanged"), [(3, 9), (4, 9), (5, 17), (6, 17)])
def test_later_latent_frames_do_not_reach_earlier_pieces(vae: CogVideoXVAE, changed: int, unchanged: int) -> None:
    z_BCTHW, other_BCTHW = latents(7), latents(7)
    other_BCTHW[:, :, changed] += 1
    before, after = vae.decode(z_BCTHW), vae.decode(other_BCTHW)

    assert torch.equal(before[:, :, :unchanged], after[:, :, :unchanged])
    assert not torch.allclose(before[:, :, unchanged:], after[:, :, unchanged:], atol=1e-3)


@torch.inference_mode()
def test_later_frames_do_not_reach_latents_of_earlier_pieces(vae: CogVideoXVAE) -> None:
    before = vae.encode(video(25))
    changed = video(25)
    changed[:, :, 17:] = 0
    after = vae.encode(changed)

    assert torch.equal(before[:, :, :5], after[:, :, :5])
    assert not torch.allclose(before[:, :, 5:], after[:, :, 5:], atol=1e-3)


@torch.inference_mode()
def test_earlier_latent_frames_reach_the_next_piece(vae: CogVideoXVAE) -> None:
    other_BCTHW = latents(5)
    other_BCTHW[:, :, 2] += 1

    assert not torch.allclose(vae.decode(latents(5))[:, :, 9:], vae.decode(other_BCTHW)[:, :, 9:], atol=1e-3)


@torch.inference_mode()
def test_calls_do_not_disturb_each_other(vae: CogVideoXVAE) -> None:
    """A second clip is encoded and decoded between two chunks of the first."""
    expected = vae.decode(latents(5)), vae.decode(latents(3, seed=1)), vae.encode(video(17))
    inner: list[Tensor] = []

    def run_others(done: int, _: int) -> None:
        if done == 1:
            inner.extend([vae.decode(latents(3, seed=1)), vae.encode(video(17))])

    outer = vae.decode(latents(5), run_others)

    for ours, theirs in zip((outer, *inner), expected, strict=True):
        assert torch.equal(ours, theirs)


@torch.inference_mode()
@pytest.mark.parametrize("part", ["encode", "decode"])
def test_an_exception_from_the_progress_stops_at_once_and_leaves_nothing(vae: CogVideoXVAE, part: str) -> None:
    def cancel(done: int, _: int) -> None:
        if done == 2:
            raise CancelError

    given = video(33) if part == "encode" else latents(9)
    expected = getattr(vae, part)(given)
    calls = calls_of(vae.encoder if part == "encode" else vae.decoder)

    with pytest.raises(CancelError):
        getattr(vae, part)(given, cancel)
    assert len(calls) == 2
    assert torch.equal(getattr(vae, part)(given), expected)


@torch.inference_mode()
@pytest.mark.parametrize(("frames", "count"), [(1, 1), (3, 1), (4, 2), (9, 4), (33, 16)])
def test_decoding_tells_its_progress(vae: CogVideoXVAE, frames: int, count: int) -> None:
    done: list[tuple[int, int]] = []
    calls = calls_of(vae.decoder)

    vae.decode(latents(frames, 1, 1), lambda *progress: done.append(progress))

    assert done == [(index, count) for index in range(1, count + 1)]
    assert len(calls) == count
    assert all(shape[2] <= 3 for shape in calls)


@torch.inference_mode()
def test_encoding_tells_its_progress(vae: CogVideoXVAE) -> None:
    done: list[tuple[int, int]] = []
    calls = calls_of(vae.encoder)

    vae.encode(video(25), lambda *progress: done.append(progress))

    assert done == [(1, 3), (2, 3), (3, 3)]
    assert [shape[2] for shape in calls] == [9, 8, 8]


@pytest.mark.parametrize(("height", "width"), [(16, 20), (12, 16)])
def test_sides_that_are_no_multiples_of_8_are_an_error(vae: CogVideoXVAE, height: int, width: int) -> None:
    with pytest.raises(ValueError, match=f"multiples of 8, not {height} and {width}"):
        vae.encode(video(1, height, width))


# tiles


@torch.inference_mode()
@pytest.mark.parametrize("tile", [6, 7, 100])
def test_one_tile_over_all_is_the_decode_as_a_whole(vae: CogVideoXVAE, tile: int) -> None:
    z_BCTHW = latents(3, 5, 6)

    assert torch.equal(vae.decode(z_BCTHW, tile=tile), vae.decode(z_BCTHW))


@torch.inference_mode()
@pytest.mark.parametrize("axis", [3, 4])
def test_what_one_tile_covers_comes_from_it_and_the_rest_blends_evenly(vae: CogVideoXVAE, axis: int) -> None:
    shape = [1, 16, 3, 2, 2]
    shape[axis] = 7
    z_BCTHW = noise(*shape)
    decoded = vae.decode(z_BCTHW, tile=4)  # cells 0 to 3 and 3 to 6
    first, second = (vae.decode(z_BCTHW.narrow(axis, start, 4)) for start in (0, 3))
    share = (torch.arange(8) + 1) / 9  # of the second, rising evenly: no edge shows
    share = share.view(-1, 1) if axis == 3 else share
    blended = torch.lerp(first.narrow(axis, 24, 8), second.narrow(axis, 0, 8), share)

    torch.testing.assert_close(decoded.narrow(axis, 0, 24), first.narrow(axis, 0, 24))
    torch.testing.assert_close(decoded.narrow(axis, 24, 8), blended)
    torch.testing.assert_close(decoded.narrow(axis, 32, 24), second.narrow(axis, 8, 24))


@torch.inference_mode()
def test_tiles_are_small_and_tell_their_progress(vae: CogVideoXVAE) -> None:
    z_BCTHW, done = latents(5, 5, 8), []
    calls = calls_of(vae.decoder)
    once = vae.decode(z_BCTHW, lambda *progress: done.append(progress), tile=4)

    assert all(shape[3] <= 4 and shape[4] <= 4 for shape in calls)
    assert done == [(index, len(calls)) for index in range(1, len(calls) + 1)]
    assert len(calls) == 2 * 3 * 2  # rows, columns, chunks
    assert torch.equal(vae.decode(z_BCTHW, tile=4), once)


@torch.inference_mode()
@pytest.mark.parametrize("tile", [1, 2, 3])
def test_small_tiles_cover_everything(vae: CogVideoXVAE, tile: int) -> None:
    decoded = vae.decode(latents(2, 4, 5), tile=tile)

    assert decoded.shape == (1, 3, 8, 32, 40)
    assert bool(decoded.isfinite().all())
    assert bool((decoded != 0).any(dim=1).all())


# formats and parts


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_float32_pixels_close_to_those_of_float32(dtype: torch.dtype) -> None:
    exact, half = build_vae(), build_vae().to(dtype)
    expected, decoded = exact.decode(latents(3)), half.decode(latents(3))

    assert decoded.dtype == torch.float32
    assert float((decoded - expected).square().mean().sqrt()) < 0.1 * float(expected.std())
    assert half.encode(video(9)).dtype == dtype


@torch.inference_mode()
def test_a_host_says_where_the_network_computes() -> None:
    class Hosted(CogVideoXVAE):
        def to_network(self, x: Tensor) -> Tensor:
            moved.append(x.shape[2])
            return x.double()

    moved: list[int] = []
    vae = Hosted(TINY.vae)
    vae.load_state_dict(build_vae().state_dict())
    vae.double()

    assert vae.encode(video(17)).dtype == torch.float64
    assert vae.decode(latents(5)).dtype == torch.float32
    assert moved == [9, 8, 3, 2]


def test_gradients_reach_every_weight_and_the_input(vae: CogVideoXVAE) -> None:
    video_BCFHW = video(9).requires_grad_()

    vae.decode(vae.encode(video_BCFHW)).square().mean().backward()

    without = {name for name, weight in vae.named_parameters() if weight.grad is None or not weight.grad.any()}
    assert not without
    assert video_BCFHW.grad is not None
    assert bool(video_BCFHW.grad.any())


def test_every_weight_is_in_a_layer_of_the_given_namespace() -> None:
    names = ("Linear", "Conv2d", "Conv3d", "GroupNorm", "LayerNorm", "Embedding")
    own = {name: type(name, (getattr(nn, name),), {}) for name in names}
    vae = CogVideoXVAE(TINY.vae, ops=type("Ops", (), own))  # type: ignore[arg-type]
    elsewhere = {
        name
        for name, module in vae.named_modules()
        for _ in module.named_parameters(recurse=False)
        if type(module) not in own.values()
    }

    assert not elsewhere


@pytest.mark.parametrize(
    "config",
    [
        VAEConfig(),
        NARROW.vae,
        TINY.vae,
        replace(TINY.vae, latent_channels=4),
        VAEConfig(widths=(8, 16, 24, 32), blocks_per_level=2),
    ],
    ids=["published", "narrow", "tiny", "other latents", "other"],
)
def test_sizes_are_read_from_the_weights(config: VAEConfig) -> None:
    with torch.device("meta"):
        weights = CogVideoXVAE(config).state_dict()

    assert VAEConfig.from_shapes({name: tuple(weight.shape) for name, weight in weights.items()}) == config


def test_an_incomplete_autoencoder_is_an_error() -> None:
    shapes = {name: tuple(weight.shape) for name, weight in build_vae().state_dict().items()}
    del shapes["decoder.conv_in.conv.weight"]

    with pytest.raises(CheckpointError, match=r"not a complete CogVideoX VAE.*decoder\.conv_in\.conv\.weight"):
        VAEConfig.from_shapes(shapes)
