"""What is trained of Stable Video Diffusion, on what it is trained, and what is exported."""

import gzip
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from narrow_svd import build_vae, noise, save_files
from narrow_training import build_svd_target, svd_clip, trained

from exvideo_core.errors import ExVideoError
from exvideo_core.families.svd.checkpoint import read_svd
from exvideo_core.families.svd.keys import sgm_to_extension
from exvideo_core.families.svd.pipeline import build_svd
from exvideo_core.families.svd.training import HELD_OUT_SIGMAS, SVDTarget
from exvideo_core.families.svd.vae import SCALING_FACTOR
from exvideo_core.runtime.distributed import World
from exvideo_core.training.engine import TorchEngine

GOLDEN = Path(__file__).parents[3] / "golden" / "weight_names.json.gz"
CLEAN = {"noise_levels": "lognormal", "lognormal_mean": -9.0, "lognormal_std": 0.0}  # the sampler's lowest level


class Spy:
    """A network that predicts v = 0 and keeps what it was given."""

    def __call__(self, x_TCHW, timestep, context, ids, num_frames, frame_ids):
        self.noisy, self.image = x_TCHW[:, :4], x_TCHW[:, 4:]
        self.sigma = (4 * timestep).exp()
        self.context, self.ids, self.num_frames, self.frame_ids = context, ids, num_frames, list(frame_ids)
        return torch.zeros_like(self.noisy)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return save_files(tmp_path_factory.mktemp("svd"))


@pytest.fixture
def build(files):
    return partial(build_svd_target, files[0])


def spied(target: SVDTarget, position: int = 0, step: int = 0) -> tuple[Spy, float]:
    target.unet = Spy()
    return target.unet, float(target.loss(position, step).detach())


def engine_of(target: SVDTarget) -> TorchEngine:
    return TorchEngine(target.units, target.config.optimizer, 0, World())


# what is trained


def test_temporal_trains_the_tensors_of_the_published_file(build):
    published = json.loads(gzip.decompress(GOLDEN.read_bytes()))["files"]["exvideo_svd_128f"]

    names = [sgm_to_extension(name) for name in trained(build())]

    assert sorted(names) == sorted(published)


def test_new_trains_positions_and_convolutions_alone(build):
    names = list(trained(build(model={"trainable": "new"})))

    assert len(names) == 48
    assert all(name.endswith(("extension.positions.weight", "mix.weight", "mix.bias")) for name in names)


@pytest.mark.parametrize("scope", ["temporal", "new"])
def test_what_is_trained_is_float32_and_all_else_bf16_and_frozen(build, scope):
    target = build(precision="bf16", model={"trainable": scope})
    own = trained(target)

    for name, p in target.unet.named_parameters():
        expected = (torch.float32, True) if name in own else (torch.bfloat16, False)
        assert (p.dtype, p.requires_grad) == expected, name


@pytest.mark.parametrize("scope", ["temporal", "new"])
def test_a_step_changes_what_is_trained_and_nothing_else(build, scope):
    optimizer = {"learning_rate": 0.1, "weight_decay": 0.1}  # which also reaches what one token's attention does not
    target = build(precision="bf16", model={"trainable": scope}, optimizer=optimizer)
    before = {name: weight.clone() for name, weight in target.unet.state_dict().items()}

    engine = engine_of(target)
    engine.backward(iter([partial(target.loss, 0, 0)]), 1)
    engine.step(1.0)

    after = target.unet.state_dict()
    assert {name for name in before if not torch.equal(before[name], after[name])} == set(trained(target))


def test_what_never_has_a_gradient_is_saved_and_read_like_the_rest(build, tmp_path):
    target, other = build(), build()
    engine = engine_of(target)
    engine.backward(iter([partial(target.loss, 0, 0)]), 1)
    assert any(p.grad is None for p in engine.weights.values())
    engine.step(1.0)

    engine.save(tmp_path)
    engine_of(other).load(tmp_path)

    assert all(torch.equal(p, trained(other)[name]) for name, p in trained(target).items())


def test_the_frozen_numbers_are_counted(build, files):
    base = sum(p.numel() for p in read_svd(files[0]).unet.values())

    assert build(model={"trainable": "new"}).num_frozen == base


# where a new extension starts


@pytest.mark.parametrize(("start", "num_frames"), [("folded", 4), ("folded", 25), ("sinusoid", 30)])
def test_a_new_extension_starts_as_the_base(build, files, start, num_frames):
    target = build(svd_clip(num_frames), model={"position_init": start})
    extended = float(target.loss(0, 0).detach())

    target.unet = build_svd(read_svd(files[0]))[0]

    assert extended == pytest.approx(float(target.loss(0, 0).detach()), rel=1e-6)


def test_folded_positions_leave_the_base_beyond_25_frames(build, files):
    target = build(svd_clip(30))
    extended = float(target.loss(0, 0).detach())

    target.unet = build_svd(read_svd(files[0]))[0]

    assert extended != pytest.approx(float(target.loss(0, 0).detach()), rel=1e-4)


def test_an_extension_to_go_on_from_is_taken_as_it_is(build, files):
    target = build(svd_clip(8), precision="bf16", model={"extension": str(files[1])})

    saved = read_svd(*files).unet
    assert all(torch.equal(p, saved[name]) for name, p in trained(target).items())


def test_an_extension_of_another_length_is_refused(build, files):
    with pytest.raises(ExVideoError, match=r"extension for 8 frames, and model.num_frames is 4; set it to 8"):
        build(model={"extension": str(files[1])})


# the loss


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_checkpointing_changes_no_bit_of_the_gradients(build, precision):
    plain, checkpointed = (build(precision=precision, run={"checkpointing": on}) for on in (False, True))

    for target in (plain, checkpointed):
        target.loss(0, 0).backward()

    others = trained(checkpointed)
    gradients = {name: p.grad for name, p in trained(plain).items() if p.grad is not None}
    assert all(torch.equal(gradient, others[name].grad) for name, gradient in gradients.items())
    assert len(gradients) == 528 - 64  # all but queries, keys and their norm in attention to one token


@pytest.mark.parametrize(("on", "times"), [(True, 2), (False, 1)])
def test_checkpointing_computes_blocks_twice(build, on, times):
    target = build(run={"checkpointing": on})
    calls = []
    target.unet.middle_block[1].proj_in.register_forward_hook(lambda *_: calls.append(1))

    target.loss(0, 0).backward()

    assert len(calls) == times


def test_the_loss_is_a_function_of_the_position_alone(build):
    target = build(data={"windows": [2, 3]})

    losses = {position: float(target.loss(position, 0).detach()) for position in (0, 1, 2)}

    assert len(set(losses.values())) == 3
    assert {position: float(target.loss(position, 0).detach()) for position in (2, 0, 1)} == losses


def test_windows_take_frames_at_their_own_places(build):
    clip = replace(svd_clip(6), latents_TCHW=torch.arange(6.0)[:, None, None, None].expand(6, 4, 10, 10))
    target = build(clip, data={"windows": [2, 5]}, objective={**CLEAN, "latent_scale": 1.0})
    starts = set()

    for position in range(30):
        spy, _ = spied(target, position, step=position)
        assert spy.noisy.mean(dim=(1, 2, 3)).round().tolist() == spy.frame_ids
        assert len(spy.frame_ids) == spy.num_frames == (2, 5)[position % 2]
        starts.add((spy.num_frames, spy.frame_ids[0]))

    assert starts == {(2, 0), (2, 1), (2, 2), (2, 3), (2, 4), (5, 0), (5, 1)}


@pytest.mark.parametrize(("share", "is_hidden"), [(1.0, {True}), (0.0, {False}), (0.5, {True, False})])
def test_dropped_conditions_are_zeros(build, share, is_hidden):
    target = build(objective={"condition_dropout": share})
    found = set()

    for position in range(12):
        spy, _ = spied(target, position)
        found.add(not spy.context.any())
        assert bool(spy.image.any()) == bool(spy.context.any())

    assert found == is_hidden


def test_the_network_is_told_rate_motion_and_noise_on_the_picture(build):
    spy, _ = spied(build(objective={"image_noise": 0.25, "image_noise_std": 0.0}))

    assert spy.ids.tolist() == [[7.0, 31.0, 0.25]]


def test_without_image_noise_the_clips_own_first_latents_are_the_picture(build):
    spy, _ = spied(build(objective={"image_noise": 0.0, "condition_dropout": 0.0}))

    torch.testing.assert_close(spy.image, svd_clip().latents_TCHW[:1].expand(4, -1, -1, -1), rtol=0, atol=0)
    assert spy.ids[0, 2] == 0


@pytest.mark.parametrize(("strength", "is_close"), [(1e-5, True), (0.5, False)])
def test_the_picture_is_encoded_with_noise_on_it(build, strength, is_close):
    spy, _ = spied(build(objective={"image_noise": strength, "image_noise_std": 0.0, "condition_dropout": 0.0}))

    with torch.no_grad():
        clean = build_vae().encode(svd_clip().picture_3HW[None])[0]
    assert torch.allclose(spy.image[0], clean, atol=1e-3) == is_close


@pytest.mark.parametrize("scale", [0.13025, SCALING_FACTOR])
def test_the_network_sees_latents_of_the_chosen_scale(build, scale):
    spy, _ = spied(build(objective={**CLEAN, "latent_scale": scale}))

    torch.testing.assert_close(spy.noisy, svd_clip().latents_TCHW * scale, rtol=0.01, atol=0.01)


@pytest.mark.parametrize("weighting", ["script", "velocity"])
def test_the_loss_is_the_error_of_v_or_weighted_as_published(build, weighting):
    target = build(objective={"noise_levels": "lognormal", "weighting": weighting, "target_scale": 1.0})

    for position in range(4):
        spy, loss = spied(target, position)
        latents, total = svd_clip().latents_TCHW * SCALING_FACTOR, (1 + spy.sigma**2).sqrt()
        drawn = (spy.noisy * total - latents) / spy.sigma
        error = float(((drawn - spy.sigma * latents) / total).square().mean())
        factor = 1 if weighting == "velocity" else float(spy.sigma / total)
        assert loss == pytest.approx(error * factor, rel=1e-3)


# held out


@pytest.mark.parametrize("off", [0.0, 0.5])
def test_the_held_out_error_is_how_far_v_is_off(build, off):
    target = build()
    latents = svd_clip().latents_TCHW * SCALING_FACTOR

    def network(x_TCHW, timestep, *_, **__):
        sigma = (4 * timestep).exp()
        total = (1 + sigma**2).sqrt()
        return ((x_TCHW[:, :4] * total - latents) / sigma - sigma * latents) / total + off

    target.unet = network
    assert target.num_held_out == len(HELD_OUT_SIGMAS)
    for item in range(target.num_held_out):
        assert target.held_out_errors(item).tolist() == pytest.approx([off**2] * 4, abs=1e-3)


# the file


@pytest.mark.parametrize("number_format", ["fp16", "bf16", "fp32"])
def test_an_export_is_the_trained_weights_in_the_chosen_format(build, files, tmp_path, number_format):
    target = build(run={"export_format": number_format})
    weights = {name: p.detach() + noise(*p.shape) for name, p in trained(target).items()}
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}[number_format]

    target.export(weights, tmp_path / "own.safetensors")

    loaded = read_svd(files[0], tmp_path / "own.safetensors")
    assert loaded.extension_frames == 4
    for name, weight in weights.items():
        torch.testing.assert_close(loaded.unet[name], weight.to(dtype), rtol=0, atol=0)


def test_what_was_not_trained_is_exported_with_the_bases_own_bits(build, files, tmp_path):
    target = build(precision="bf16", model={"trainable": "new"}, run={"export_format": "fp32"})

    target.export(engine_of(target).gathered(), tmp_path / "own.safetensors")

    base, loaded = read_svd(files[0]).unet, read_svd(files[0], tmp_path / "own.safetensors").unet
    for name, weight in base.items():
        torch.testing.assert_close(loaded[name], weight, rtol=0, atol=0)
