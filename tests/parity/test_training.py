"""Losses of post-tuning, and their gradients, against the references on the same weights.

For SVD that is DiffSynth-Studio 1.1.9's ExVideo_svd_train.py, whose UNet and scheduler run here; for CogVideoX it is
diffusers' train_cogvideox_lora.py, whose transformer and scheduler do. Neither script can be imported.

In float32 two things keep SVD's single gradients from agreeing to 1e-5, so that is tested in float64:
- gradients of biases are sums over thousands of cells that cancel, and the order of the sums differs: up to 5e-5 of
  the largest entry, ours being as near to float64 as the script's are;
- at the lowest noise levels most of the error is a hundredth of the latents (the script's 1.01), and each rounding of
  sqrt(1 + sigma^2), by 6e-8 of the latents, shifts the loss by 1e-5: the script's is 1e-5 off, and ours 3e-5.
What is left in float64, 4e-6, is the epsilon of 22 norms, in which DiffSynth differs from diffusers and from us.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from narrow_cogvideox import NARROW as COGVIDEOX, build_transformer
from narrow_svd import NARROW, noise, reset_extension
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils import parametrize

from exvideo_core.families.cogvideox.objective import cogvideox_loss
from exvideo_core.families.svd.blocks import ResBlock
from exvideo_core.families.svd.keys import sgm_to_extension
from exvideo_core.families.svd.objective import svd_loss
from exvideo_core.families.svd.training import trained_units
from exvideo_core.families.svd.transformer import SpatioTemporalTransformer
from exvideo_core.lora import LoRA, attach, new_lora
from exvideo_core.training.recipe import checkpoint_blocks, freeze
from parity import references, references_cogvideox
from parity.references import EXPECTED_WARNINGS, diffsynth

pytestmark = pytest.mark.parity

TOLERANCE = 1e-5
TOLERANCE_AT_LOW_NOISE = 1e-4  # in float32, see above
TOLERANCE_OF_COGVIDEOX = 1e-4
SCALING_FACTOR = 0.13025  # the script's
LEVELS = [0, 300, 500, 800, 980]  # of its 1000: sigma 700, 92, 16, 0.29 and 0.004
# Below this share of the largest gradient there is none. By mathematics that is so for the norm, the queries and the
# keys of attention to a single token, in each of the 16 blocks; and for the last block's last bias in a network so
# narrow that the last norm, with its one channel a group, takes it out again.
NOTHING = 1e-9
NUM_TRAINED, NUM_WITHOUT_GRADIENT = 528, 16 * 4 + 1


@dataclass(frozen=True)
class Clip:
    """As the autoencoder gives it, with the noise to add."""

    raw_TCHW: Tensor
    noise_TCHW: Tensor
    context: Tensor
    ids: Tensor


def clip(dtype, frames=4):
    shape = frames, 4, 16, 16  # the reference knows no sides that are not multiples of 8
    tensors = noise(*shape) / SCALING_FACTOR, noise(*shape, seed=1), noise(1, NARROW.unet.context_dim, seed=2)
    return Clip(*(tensor.to(dtype) for tensor in tensors), ids=torch.tensor([[29.0, 40.0, 0.0]]))


def losses_of_the_script(unet, scheduler, index, given):
    timestep, latents = scheduler.timesteps[index], SCALING_FACTOR * given.raw_TCHW
    noisy = scheduler.add_noise(latents, given.noise_TCHW, timestep)
    image = given.raw_TCHW[:1].repeat(len(latents), 1, 1, 1)
    v = unet(torch.cat([noisy, image], dim=1), timestep, given.context, given.ids)
    # a copy, since it writes into its sample
    x0 = scheduler.step(v.float(), timestep, noisy.float().clone(), to_final=True)
    loss = F.mse_loss(x0, 1.01 * latents.float())
    return loss, loss * scheduler.training_weight(timestep)


def our_losses(unet, scheduler, index, given):
    latents, sigma = SCALING_FACTOR * given.raw_TCHW, scheduler.sigmas[index]
    return svd_loss(unet, latents, given.raw_TCHW[0], given.context, given.ids, sigma, given.noise_TCHW)


def trained_weights(unet):
    """Ours by their published names, which are those of the reference's blocks."""
    return {
        sgm_to_extension(f"{unit}.{name}"): weight
        for unit, module in trained_units(unet, "temporal").items()
        for name, weight in module.named_parameters()
    }


def gradients(loss, weights):
    found = torch.autograd.grad(loss, list(weights.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(weights, found, strict=True))


def assert_each_equals(ours, reference, relative_error, tolerance=TOLERANCE):
    assert ours.keys() == reference.keys()
    nothing = NOTHING * max(float(gradient.abs().max()) for gradient in reference.values())
    without = {name for name, gradient in reference.items() if gradient.abs().max() <= nothing}
    assert len(without) == NUM_WITHOUT_GRADIENT
    assert all(ours[name].abs().max() <= nothing for name in without)
    errors = {name: relative_error(ours[name], reference[name]) for name in reference if name not in without}
    assert {name: error for name, error in errors.items() if error > tolerance} == {}


@pytest.fixture(scope="module")
def networks(extended, files):
    """Ours and the reference's, float32, with what is trained set to be."""
    extension = load_file(files[1])
    ours, reference = copy.deepcopy(extended.unet), references.diffsynth_unet(load_file(files[0]), extension)
    freeze(ours, trained_units(ours, "temporal").values(), torch.float32, torch.device("cpu"))
    for name in extension:
        reference.get_parameter(name).requires_grad_(True)
    return ours, reference


@pytest.fixture(scope="module")
def in_float64(networks):
    """The same in float64."""
    return tuple(copy.deepcopy(network).double() for network in networks)


@pytest.fixture
def scheduler():
    return diffsynth("schedulers.continuous_ode").ContinuousODEScheduler(num_inference_steps=1000)


@pytest.fixture
def scheduler_in_float64(scheduler, monkeypatch):
    """The same levels, and `float` does not round: both implementations turn to float32 by that name."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    scheduler.sigmas = scheduler.sigmas.double()
    scheduler.timesteps = 0.25 * scheduler.sigmas.log()
    return scheduler


def both(networks, scheduler, index, given):
    """Plain and weighted losses and the gradients, of ours and of the reference."""
    ours, reference = networks
    results = []
    for losses, network, weights in (
        (our_losses, ours, trained_weights(ours)),
        (losses_of_the_script, reference, {n: w for n, w in reference.named_parameters() if w.requires_grad}),
    ):
        assert len(weights) == NUM_TRAINED
        plain, weighted = losses(network, scheduler, index, given)
        results.append((plain.detach(), weighted.detach(), gradients(weighted, weights)))
    return results


@pytest.mark.parametrize("index", LEVELS)
def test_loss_and_every_gradient_of_svd_equal_the_script_s(index, in_float64, scheduler_in_float64, relative_error):
    ours, script = both(in_float64, scheduler_in_float64, index, clip(torch.float64))

    assert relative_error(ours[0], script[0]) <= TOLERANCE
    assert relative_error(ours[1], script[1]) <= TOLERANCE
    assert_each_equals(ours[2], script[2], relative_error)


@pytest.mark.parametrize("index", LEVELS[::2])
def test_loss_and_gradient_of_svd_in_float32_equal_the_script_s(index, networks, scheduler, relative_error):
    ours, script = both(networks, scheduler, index, clip(torch.float32, frames=6))

    tolerance = TOLERANCE_AT_LOW_NOISE if index > 900 else TOLERANCE
    assert relative_error(ours[0], script[0]) <= tolerance
    assert relative_error(ours[1], script[1]) <= tolerance
    one, other = (torch.cat([found[name].flatten() for name in script[2]]) for _, _, found in (ours, script))
    assert relative_error(one, other) <= tolerance


def test_with_the_same_epsilons_nothing_is_left(in_float64, scheduler_in_float64, relative_error):
    ours, reference = in_float64
    pair = ours, references.unet_with_diffusers_eps(reference)
    ours, script = both(pair, scheduler_in_float64, 500, clip(torch.float64, frames=5))

    assert relative_error(ours[0], script[0]) <= 1e-10
    assert_each_equals(ours[2], script[2], relative_error, tolerance=1e-10)


def test_gradients_of_a_new_extension_equal_the_script_s(in_float64, scheduler_in_float64, relative_error):
    ours, reference = (copy.deepcopy(network) for network in in_float64)
    reset_extension(ours)
    with torch.no_grad():
        new = diffsynth("models.svd_unet").TrainableTemporalTimesteps
        for block in reference.blocks:
            if hasattr(block, "positional_conv"):
                table, conv = block.positional_embedding.embeddings, block.positional_conv
                table.copy_(new(table.shape[1], True, 0, len(table)).embeddings)
                nn.init.dirac_(conv.weight)
                nn.init.zeros_(conv.bias)
    ours, script = both((ours, reference), scheduler_in_float64, 500, clip(torch.float64))

    assert relative_error(ours[0], script[0]) <= TOLERANCE
    assert_each_equals(ours[2], script[2], relative_error)


def test_blocks_computed_twice_give_the_same_bits(networks, scheduler):
    plain, given = networks[0], clip(torch.float32)
    saving = copy.deepcopy(plain)
    checkpoint_blocks(block for block in saving.modules() if isinstance(block, ResBlock | SpatioTemporalTransformer))
    one, other = (
        gradients(our_losses(unet, scheduler, 500, given)[1], trained_weights(unet)) for unet in (plain, saving)
    )

    assert len(one) == NUM_TRAINED
    assert all(torch.equal(one[name], other[name]) for name in one)


# CogVideoX


class Merged(nn.Module):
    """A weight with a LoRA in it, as LoRA is defined (arXiv:2106.09685)."""

    def __init__(self, pair):
        super().__init__()
        self.down, self.up = nn.Parameter(pair.down.clone()), nn.Parameter(pair.up.clone())
        self.scale = pair.alpha / len(pair.down)

    def forward(self, weight):
        return weight + self.scale * self.up @ self.down


@pytest.fixture(scope="module")
def cogvideox():
    """Ours with a LoRA beside it and diffusers' with the same in it, and the factors of each."""
    ours = build_transformer(COGVIDEOX.transformer)
    reference = references_cogvideox.diffusers_transformer(ours.state_dict(), ours.config)
    new = new_lora(ours, rank=4, alpha=8.0, generator=torch.Generator().manual_seed(0)).pairs
    pairs = {name: replace(pair, up=noise(*pair.up.shape, seed=i) / 4) for i, (name, pair) in enumerate(new.items())}
    merged = {name: Merged(pair) for name, pair in pairs.items()}
    for name, lora in merged.items():
        parametrize.register_parametrization(reference.get_submodule(name.removesuffix(".weight")), "weight", lora)
    return (ours, factors_of(attach(ours, LoRA(pairs, "lora")).factors)), (reference, factors_of(merged))


def factors_of(loras):
    return {f"{name}.{half}": getattr(lora, half) for name, lora in loras.items() for half in ("down", "up")}


@EXPECTED_WARNINGS
@pytest.mark.parametrize("timesteps", [(10, 990), (200, 800), (500, 0), (999, 300)], ids=str)
def test_loss_and_gradients_of_cogvideox_equal_diffusers(timesteps, cogvideox, relative_error):
    (ours, our_factors), (reference, factors) = cogvideox
    latents, unit = noise(2, 16, 3, 8, 12), noise(2, 16, 3, 8, 12, seed=1)
    context, t = noise(2, 12, COGVIDEOX.transformer.text_dim, seed=2), torch.tensor(timesteps)
    loss = cogvideox_loss(ours, latents, context, t, unit)

    scheduler = references_cogvideox.diffusers_scheduler("CogVideoXDPMScheduler", 1)
    noisy = scheduler.add_noise(latents, unit, t)
    x0 = scheduler.get_velocity(references_cogvideox.diffusers_velocity(reference, noisy, t, context), noisy, t)
    weights = 1 / (1 - scheduler.alphas_cumprod[t]).view(-1, 1, 1, 1, 1)
    expected = (weights * (x0 - latents).square()).mean()

    assert relative_error(loss.detach(), expected.detach()) <= TOLERANCE_OF_COGVIDEOX
    found, wanted = gradients(loss, our_factors), gradients(expected, factors)
    assert len(wanted) == 2 * 4 * COGVIDEOX.transformer.layers
    errors = {name: relative_error(found[name], wanted[name]) for name in wanted}
    assert {name: error for name, error in errors.items() if error > TOLERANCE_OF_COGVIDEOX} == {}
