"""The demo model's training: it goes on bit for bit, and what it leaves out while training adds nothing."""

import pytest
import torch
from torch import nn

from exvideo_core.families.svd.checkpoint import read_svd
from exvideo_core.families.svd.config import UNetConfig, VAEConfig
from exvideo_core.families.svd.image_encoder import ImageEncoder
from exvideo_core.families.svd.pipeline import build_svd
from exvideo_core.training.optimizers import learning_rate, orthogonal
from exvideo_core.training.procedural.pictures import Pictures
from exvideo_core.training.procedural.push_in import progress
from exvideo_core.training.randomness import generator_of
from tools.demo_models.loop import LoopConfig, Run
from tools.demo_models.svd.__main__ import DemoTraining, Recipe
from tools.demo_models.svd.autoencoder import Autoencoder, Components, assemble, autoencoder_loss
from tools.demo_models.svd.gallery import FreshGallery
from tools.demo_models.svd.unet import (
    BASE_FRAMES,
    DEMO_IMAGE_ENCODER,
    draw_sigmas,
    frames_batch,
    still_unet,
    whole_unet,
)

NARROW = UNetConfig(widths=(8, 8, 8, 8), context_dim=4, time_dim=16, id_dim=8)


@pytest.fixture(scope="module")
def pictures():
    return Pictures(leaves=3, photos=False)


def encoders():
    """Of pictures, as they are at first."""
    torch.manual_seed(0)
    return assemble(Autoencoder().state_dict(), 1.0), ImageEncoder(DEMO_IMAGE_ENCODER)


def trained(file, until, interrupted_at=None):
    def start():
        torch.manual_seed(0)
        return Run(nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 4)), LoopConfig(steps=9, warmup=2), file)

    def loss_of(_, generator):
        x = torch.randn(8, 16, generator=generator)
        return (run.module(x) - x[:, :4]).square().mean()

    run = start()
    if interrupted_at:
        run.train(loss_of, until=interrupted_at)
        run = start()
        assert run.step == interrupted_at
    run.train(loss_of, until=until)
    return run


def test_an_interrupted_run_ends_bit_for_bit_as_an_uninterrupted_one(tmp_path):
    whole = trained(tmp_path / "whole.pt", until=9)
    resumed = trained(tmp_path / "resumed.pt", until=9, interrupted_at=4)

    for name, weight in whole.module.state_dict().items():
        assert torch.equal(weight, resumed.module.state_dict()[name])
        assert torch.equal(whole.ema.weights[name], resumed.ema.weights[name])


def test_training_lowers_the_loss(tmp_path):
    run = trained(tmp_path / "run.pt", until=1)
    x = torch.randn(64, 16, generator=generator_of(0, 99))
    before = (run.module(x) - x[:, :4]).square().mean()
    after = trained(tmp_path / "run.pt", until=9).module(x)
    assert (after - x[:, :4]).square().mean() < before


def test_muons_update_is_about_orthogonal():
    x = orthogonal(torch.randn(2, 24, 16, generator=generator_of(0, 0)))
    values = torch.linalg.svdvals(x)
    assert values.min() > 0.4
    assert values.max() < 1.4


def test_learning_rate_rises_holds_and_falls_to_zero():
    rates = [learning_rate(step, 100, warmup=10, hold=0.3) for step in range(101)]
    assert rates[0] < rates[5] < rates[20] == rates[29] == 1
    assert rates[50] > rates[90] > rates[100] == 0


def draw_randomly(module):
    for p in module.parameters():
        nn.init.normal_(p, std=0.1)


def clip_inputs(frames=4):
    generator = generator_of(0, 5)
    x = torch.randn(frames, 8, 16, 16, generator=generator)
    return x, torch.tensor([0.3]), torch.randn(1, 1, 4, generator=generator), torch.tensor([[29.0, 127.0, 0.02]])


@torch.no_grad()
def test_a_whole_unet_is_the_still_one_it_came_from():
    torch.manual_seed(0)
    still = still_unet(NARROW)
    draw_randomly(still)
    whole = whole_unet(still.state_dict(), NARROW)

    torch.testing.assert_close(whole(*clip_inputs()), still(*clip_inputs()))


def test_the_base_sees_a_short_clip_s_places_and_all_of_the_motion(pictures):
    gallery = FreshGallery(pictures, *encoders(), size=2, fresh=0)
    batches = [frames_batch(gallery.at(0), 64, generator_of(0, step)) for step in range(8)]
    places = torch.tensor([place for batch in batches for place in batch.frame_ids])
    fps = torch.cat([batch.add_time_ids_B3[:, 0] + 1 for batch in batches])

    assert (places.min(), places.max()) == (0, BASE_FRAMES - 1)
    assert (fps.min(), fps.max()) == (6, 30)
    assert progress(places, 127, fps).max() > 0.9


@torch.no_grad()
def test_an_assembled_autoencoder_decodes_as_the_trained_one():
    config = VAEConfig(widths=(8, 8, 8, 8))
    torch.manual_seed(0)
    model = Autoencoder(config).eval()
    vae = assemble(model.state_dict(), latent_std=1.3, config=config)
    picture = torch.rand(1, 3, 32, 32, generator=generator_of(0, 0)) * 2 - 1

    latents = vae.encode(picture)

    torch.testing.assert_close(latents * 0.18215 * 1.3, model.encode(picture))
    torch.testing.assert_close(vae.decode(latents), model.decode(model.encode(picture)), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_an_assembled_autoencoder_keeps_the_layers_that_steady():
    config = VAEConfig(widths=(8, 8, 8, 8))
    torch.manual_seed(0)
    model = Autoencoder(config, steadied=True).eval()
    draw_randomly(model)
    vae = assemble(model.state_dict(), latent_std=1.0, config=config)
    latents = torch.randn(3, 4, 4, 4, generator=generator_of(0, 0))

    torch.testing.assert_close(vae.decode(latents / 0.18215), model.decode(latents), atol=1e-3, rtol=1e-3)


def test_components_have_unit_variance_over_all_channels(pictures):
    crops = pictures.crops(16, 64, generator_of(0, 0))
    components = Components(crops)
    assert components.encode(crops).square().mean() == pytest.approx(1, abs=0.25)
    assert components.encode(crops).shape == (16, 4, 8, 8)


@pytest.mark.parametrize("step", [0, 500], ids=["apart", "jointly"])
def test_both_halves_of_the_autoencoder_learn(pictures, step):
    torch.manual_seed(0)
    model = Autoencoder(VAEConfig(widths=(8, 8, 8, 8)))
    components = Components(pictures.crops(8, 64, generator_of(0, 0)))

    autoencoder_loss(model, pictures, components, step, 1000, generator_of(0, 1)).backward()

    for layer in (model.vae.encoder.conv_in, model.vae.decoder.conv_out):
        assert layer.weight.grad.abs().max() > 0


def test_sigmas_are_drawn_from_the_top_and_the_middle():
    sigmas = draw_sigmas(2000, top_share=0.5, generator=generator_of(0, 0))
    assert 0.4 < (sigmas > 4).float().mean() < 0.65
    assert (sigmas < 1).float().mean() > 0.15


@pytest.fixture(scope="module")
def small():
    stage = LoopConfig(steps=1)
    return Recipe(
        leaves=2,
        measured=8,
        gallery=2,
        autoencoder=stage,
        decoder=stage,
        steadying=stage,
        base=stage,
        base_frames=2,
    )


def test_a_gallery_is_a_function_of_the_step(pictures):
    walked, jumped = (FreshGallery(pictures, *encoders(), size=3, fresh=1) for _ in range(2))
    for step in range(4):
        walked.at(step)
    jumped.at(3)

    assert torch.equal(walked.latents_NCHW, jumped.latents_NCHW)
    batch = frames_batch(walked, 2, generator_of(0, 0))
    assert batch.latents_BCHW.shape == batch.image_BCHW.shape == (2, 4, 16, 16)


def test_every_stage_runs_and_the_file_loads(small, pictures, tmp_path):
    training = DemoTraining(small, tmp_path, pictures)
    training.train()
    training.train()  # finished: nothing to do

    unet, vae, _ = build_svd(read_svd(tmp_path / "svd_demo.safetensors"))
    assert unet.config.widths == (48, 48, 48, 48)
    assert vae.config.widths == (24, 40, 56, 56)
    assert sum(file.stat().st_size for file in tmp_path.glob("*.safetensors")) < 20e6
