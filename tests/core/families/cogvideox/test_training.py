"""What is trained of CogVideoX, on what it is trained, and what is exported."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from narrow_cogvideox import TINY, build_transformer, save_files
from narrow_svd import noise
from narrow_training import NO_TEXT_LD, build_cogvideox_target, cogvideox_clip, trained
from safetensors.torch import save_file

from exvideo_core.errors import ExVideoError
from exvideo_core.families.cogvideox.training import HELD_OUT_TIMESTEPS
from exvideo_core.families.cogvideox.vae import SCALING_FACTOR
from exvideo_core.lora import apply_lora, new_lora, read_lora, save_lora
from exvideo_core.runtime.distributed import World
from exvideo_core.sampling.schedules import zero_snr_alphas
from exvideo_core.training.engine import TorchEngine


class Spy:
    """A network that predicts v = 0 and keeps what it was given."""

    def __call__(self, x_BCTHW, timestep, context_BLD, times):
        self.noisy, self.timestep, self.context, self.times = x_BCTHW, timestep, context_BLD, times.tolist()
        return torch.zeros_like(x_BCTHW)


@pytest.fixture(scope="module")
def transformer(tmp_path_factory):
    return save_files(tmp_path_factory.mktemp("cogvideox"))[0]


@pytest.fixture
def build(transformer):
    return partial(build_cogvideox_target, transformer)


def spied(target, position=0, step=0):
    target.transformer = Spy()
    return target.transformer, float(target.loss(position, step).detach())


def predict(network):
    with torch.no_grad():
        return network(noise(1, 16, 3, 4, 6, seed=7), torch.tensor(700.0), noise(1, 5, 8, seed=8))


def randomised(target):
    """Its weights, which are put there, so that the LoRA changes something."""
    weights = trained(target)
    with torch.no_grad():
        for i, p in enumerate(weights.values()):
            p.copy_(0.3 * noise(*p.shape, seed=i))
    return {name: p.detach() for name, p in weights.items()}


# what is trained


def test_a_new_lora_changes_nothing_at_first(build):
    target = build()
    with_lora = float(target.loss(0, 0).detach())

    target.transformer = build_transformer()

    assert with_lora == float(target.loss(0, 0).detach())


def test_only_the_factors_are_trained_and_they_are_float32(build):
    target = build(precision="bf16")

    factors = trained(target)
    assert len(factors) == 2 * 4 * TINY.transformer.layers  # two of each layer of attention
    assert all(p.requires_grad and p.dtype == torch.float32 for p in factors.values())
    assert all(not p.requires_grad and p.dtype == torch.bfloat16 for p in target.transformer.parameters())


def test_a_step_changes_the_factors_and_nothing_else(build):
    target = build(precision="bf16", optimizer={"learning_rate": 0.1, "weight_decay": 0.1})
    before = {name: p.detach().clone() for name, p in trained(target).items()}
    frozen = {name: p.clone() for name, p in target.transformer.state_dict().items()}

    engine = TorchEngine(target.units, target.config.optimizer, 0, World())
    engine.backward(iter([partial(target.loss, 0, 0)]), 1)
    engine.step(1.0)

    assert all(not torch.equal(p, before[name]) for name, p in trained(target).items())
    assert all(torch.equal(p, frozen[name]) for name, p in target.transformer.state_dict().items())


def test_targets_choose_the_layers(build):
    target = build(model={"targets": ["to_q", "ff.net.2"]})

    ends = {name.split(".", 2)[2].removesuffix(".weight") for name in target.units}
    assert ends == {"attn1.to_q", "ff.net.2"}


def test_targets_that_name_no_layer_are_refused(build):
    with pytest.raises(ExVideoError, match=r"model.targets: no layer's name ends with \['to_x'\]; to_q, .* usual ones"):
        build(model={"targets": ["to_q", "to_x"]})


def test_the_image_to_video_transformer_is_refused(tmp_path):
    config = replace(TINY.transformer, in_channels=32, learned_positions=100)
    save_file(build_transformer(config).state_dict(), tmp_path / "i2v.safetensors")

    with pytest.raises(ExVideoError, match="image-to-video transformer; training needs"):
        build_cogvideox_target(tmp_path / "i2v.safetensors")


def test_a_lora_to_go_on_from_is_taken_as_it_is(build, tmp_path):
    lora = new_lora(build_transformer(), ["to_v"], rank=3)
    for pair in lora.pairs.values():
        torch.nn.init.ones_(pair.up)
    save_lora(tmp_path / "lora.safetensors", lora)

    target = build(model={"lora": str(tmp_path / "lora.safetensors")})

    assert target.units.keys() == lora.pairs.keys()
    for name, pair in lora.pairs.items():
        assert torch.equal(target.units[name].down, pair.down)
        assert torch.equal(target.units[name].up, pair.up)


# the loss


def test_checkpointing_changes_no_bit_of_the_gradients(build):
    gradients = []
    for is_on in (False, True):
        target = build(run={"checkpointing": is_on})
        randomised(target)
        target.loss(0, 0).backward()
        gradients.append([p.grad for p in trained(target).values()])

    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))
    assert all(gradient.any() for gradient in gradients[0])


def test_the_loss_is_a_function_of_the_position_alone(build):
    target = build(data={"windows": [1, 2]})

    losses = {position: float(target.loss(position, 0).detach()) for position in (0, 1, 2)}

    assert len(set(losses.values())) == 3
    assert {position: float(target.loss(position, 0).detach()) for position in (2, 0, 1)} == losses


def test_windows_take_latent_frames_at_their_own_places(build):
    clip = cogvideox_clip()
    clip = replace(clip, latents_CTHW=100 * torch.arange(6.0)[None, :, None, None].expand(16, 6, 4, 6))
    target = build(clip, data={"windows": [1, 4]})
    starts = set()

    for position in range(40):
        spy, _ = spied(target, position, step=position)
        share = float(zero_snr_alphas()[int(spy.timestep)].sqrt())
        if share > 0.2:  # else the noise hides which frames they are
            seen = spy.noisy.mean(dim=(0, 1, 3, 4)) / (100 * SCALING_FACTOR * share)
            assert seen.round().tolist() == spy.times
        assert len(spy.times) == (1, 4)[position % 2]
        starts.add((len(spy.times), spy.times[0]))

    assert starts == {*((1, start) for start in range(6)), *((4, start) for start in range(3))}


@pytest.mark.parametrize(("share", "is_silent"), [(1.0, {True}), (0.0, {False}), (0.5, {True, False})])
def test_dropped_prompts_are_the_empty_sentence(build, share, is_silent):
    target = build(objective={"condition_dropout": share})
    found = set()

    for position in range(12):
        context_LD = spied(target, position)[0].context[0]
        found.add(torch.equal(context_LD, NO_TEXT_LD))
        assert torch.equal(context_LD, NO_TEXT_LD) != torch.equal(context_LD, cogvideox_clip().context_LD)

    assert found == is_silent


@pytest.mark.parametrize("off", [0.0, 0.5])
def test_the_held_out_error_is_how_far_v_is_off(build, off):
    target = build()
    latents_BCTHW = SCALING_FACTOR * cogvideox_clip().latents_CTHW[None]

    def network(x_BCTHW, timestep, *_):
        alpha = zero_snr_alphas()[int(timestep)]
        drawn = (x_BCTHW - alpha.sqrt() * latents_BCTHW) / (1 - alpha).sqrt()
        return alpha.sqrt() * drawn - (1 - alpha).sqrt() * latents_BCTHW + off

    target.transformer = network
    assert target.num_held_out == len(HELD_OUT_TIMESTEPS)
    for item in range(target.num_held_out):
        assert target.held_out_errors(item).tolist() == pytest.approx([off**2] * 3, abs=1e-3)


# the file


def test_an_export_does_what_the_trained_lora_did(build, tmp_path):
    target = build(run={"export_format": "fp32"}, model={"alpha": 4.0})
    target.export(randomised(target), tmp_path / "own.safetensors")

    host = SimpleNamespace(transformer=build_transformer())
    before = predict(host.transformer)
    report = apply_lora(host, tmp_path / "own.safetensors")

    assert report.unused == 0
    torch.testing.assert_close(predict(host.transformer), predict(target.transformer), rtol=1e-4, atol=1e-4)
    assert (predict(host.transformer) - before).abs().max() > 0.1


@pytest.mark.parametrize("number_format", ["fp16", "bf16", "fp32"])
def test_an_export_has_the_chosen_format(build, tmp_path, number_format):
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}[number_format]
    target = build(run={"export_format": number_format})
    weights = randomised(target)

    target.export(weights, tmp_path / "own.safetensors")

    pairs = read_lora(tmp_path / "own.safetensors").pairs
    assert pairs.keys() == target.units.keys()
    for name, pair in pairs.items():
        torch.testing.assert_close(pair.down, weights[f"{name}.down"].to(dtype), rtol=0, atol=0)
        torch.testing.assert_close(pair.up, weights[f"{name}.up"].to(dtype), rtol=0, atol=0)
