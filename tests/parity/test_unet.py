"""Our UNet against DiffSynth-Studio's and diffusers', in float32, on the same weights."""

from __future__ import annotations

import pytest
import torch
from narrow_svd import NARROW, noise

from exvideo_core.families.svd.temporal import TemporalExtension
from parity import references

pytestmark = pytest.mark.parity

TOLERANCE = 1e-5
# T, height and width of the latents; the last is longer than the 25 frames SVD was made for
SIZES = [(2, 16, 16), (9, 16, 24), (9, 32, 16), (30, 16, 16)]
SIGMAS = [0.002, 1.0, 700.0]


def inputs(frames, height, width, sigma=1.0):
    x_TCHW = noise(frames, NARROW.unet.in_channels, height, width)
    context = noise(1, NARROW.unet.context_dim, seed=1)
    return x_TCHW, 0.25 * torch.tensor(sigma).log(), context, torch.tensor([[29.0, 127.0, 0.02]])


@pytest.fixture(params=["plain", "extended"])
def kind(request):
    return request.param


@torch.inference_mode()
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_unet_equals_diffsynth(kind, size, request, relative_error):
    ours, reference = request.getfixturevalue(kind), request.getfixturevalue(f"reference_{kind}")
    call = inputs(*size)

    assert relative_error(ours.unet(*call), reference.unet(*call)) <= TOLERANCE


@torch.inference_mode()
@pytest.mark.parametrize("sigma", SIGMAS)
def test_unet_equals_diffsynth_at_every_noise_level(kind, sigma, request, relative_error):
    ours, reference = request.getfixturevalue(kind), request.getfixturevalue(f"reference_{kind}")
    call = inputs(4, 16, 16, sigma)

    assert relative_error(ours.unet(*call), reference.unet(*call)) <= TOLERANCE


@torch.inference_mode()
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_unet_equals_diffusers(size, plain, relative_error):
    x_TCHW, timestep, context, ids = inputs(*size)
    reference = references.diffusers_unet(plain.unet.state_dict())
    expected = reference(x_TCHW[None], timestep, context[None], ids).sample[0]

    assert relative_error(plain.unet(x_TCHW, timestep, context, ids), expected) <= TOLERANCE


@torch.inference_mode()
def test_two_clips_at_once_equal_diffusers(plain, relative_error):
    x_BCHW = noise(8, NARROW.unet.in_channels, 16, 16)
    context, ids = noise(2, 1, NARROW.unet.context_dim, seed=1), torch.tensor([[6.0, 127.0, 0.02], [29.0, 20.0, 0.1]])
    timestep = torch.tensor([0.5, -0.5])
    reference = references.diffusers_unet(plain.unet.state_dict())
    expected = reference(x_BCHW.unflatten(0, (2, 4)), timestep, context, ids).sample.flatten(0, 1)

    assert relative_error(plain.unet(x_BCHW, timestep, context, ids, num_frames=4), expected) <= TOLERANCE


@torch.inference_mode()
def test_both_naming_schemes_give_the_same_unet(kind, from_diffusers, request, relative_error):
    single, folder = request.getfixturevalue(kind).unet, from_diffusers[kind].unet
    call = inputs(3, 16, 16)

    assert folder.config == single.config
    assert relative_error(folder(*call), single(*call)) <= TOLERANCE


@pytest.mark.parametrize("frames", [25, 64, 128, 200])
def test_untrained_position_table_equals_the_reference_s(frames, relative_error):
    table = references.diffsynth("models.svd_unet").TrainableTemporalTimesteps(320, True, 0, frames)
    extension = TemporalExtension(320, frames)
    extension.reset()

    assert relative_error(extension.positions.weight.data, table.embeddings.data) <= TOLERANCE
