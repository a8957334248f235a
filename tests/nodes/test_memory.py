"""What we tell ComfyUI about memory, against what the networks hold at the published sizes (on the meta device)."""

import pytest
import torch

from exvideo_core.estimate.counting import Elsewhere, count
from exvideo_core.families.cogvideox import config as cog
from exvideo_core.families.cogvideox.transformer import CogVideoXTransformer
from exvideo_core.families.cogvideox.vae import CogVideoXVAE
from exvideo_core.families.svd.config import UNetConfig, VAEConfig
from exvideo_core.families.svd.lazy_frames import keep
from exvideo_core.families.svd.unet import SVDUNet
from exvideo_core.families.svd.vae import VAE


def peak_bytes(function, *args):
    return count(lambda: function(*args)).peak


@pytest.mark.parametrize("card", [24e9, 6e9], ids=["large card", "small card"])
@pytest.mark.parametrize("side", [64, 96])
def test_unet(pack, card, side, monkeypatch):
    adapter = pack.svd.model
    monkeypatch.setattr(adapter.model_management, "get_total_memory", lambda _: card)
    monkeypatch.setattr(adapter.model_management, "is_device_cpu", lambda _: False)
    sizes, frames = UNetConfig(extension_frames=128), 128
    offloads = adapter.offloads_skips(sizes, (frames, side, side), torch.float16, torch.device("meta"))
    with torch.device("meta"):
        unet = SVDUNet(sizes).half()
        unet.offload_skip = Elsewhere if offloads else keep
        x, context = torch.empty(frames, 8, side, side).half(), torch.empty(1, 1, 1024).half()
        peak = peak_bytes(unet, x, torch.empty(1), context, torch.empty(1, 3))
    config = adapter.SVDModelConfig(sizes, torch.float16, None)
    told = adapter.SVDModel(config, device="meta").memory_required([frames, 4, side, side])

    assert offloads == (card < 10e9 and side == 96)
    assert 0.95 * peak <= told <= 1.3 * peak


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("side", [64, 128])
def test_vae(loaded, side, dtype, monkeypatch):
    told = loaded[2].memory_used_decode, loaded[2].memory_used_encode
    monkeypatch.setattr(loaded[2].first_stage_model, "config", VAEConfig())
    with torch.device("meta"):
        vae = VAE(VAEConfig()).to(dtype)
        decoding = peak_bytes(vae.decoder, torch.empty(8, 4, side, side, dtype=dtype))
        encoding = peak_bytes(vae.encoder, torch.empty(1, 3, 8 * side, 8 * side, dtype=dtype))

    assert 0.9 * decoding <= told[0]((128, 4, side, side), dtype) <= 1.5 * decoding
    assert 0.9 * encoding <= told[1]((1, 3, 8 * side, 8 * side), dtype) <= 1.5 * encoding


def test_cogvideox_transformer(pack):
    sizes = cog.TransformerConfig(layers=2)  # more of them need no more
    with torch.device("meta"):
        transformer = CogVideoXTransformer(sizes).half()
        clips = torch.empty(2, 16, 33, 60, 90).half(), torch.empty(2), torch.empty(2, 226, sizes.text_dim).half()
        peak = peak_bytes(transformer, *clips)
    config = pack.cogvideox.model.CogVideoXModelConfig(sizes, torch.float16, None)
    told = pack.cogvideox.model.CogVideoXModel(config, device="meta").memory_required([2, 16, 33, 60, 90])

    assert 0.9 * peak <= told <= 1.5 * peak


@pytest.mark.parametrize(("height", "width"), [(32, 32), (60, 90)])
def test_cogvideox_vae(cog_loaded, height, width, monkeypatch):
    vae = cog_loaded[2]
    monkeypatch.setattr(vae.first_stage_model, "config", cog.VAEConfig())
    with torch.device("meta"):
        network = CogVideoXVAE(cog.VAEConfig()).half()

        def run(part, *pieces):  # the convolutions remember the piece before
            past = {}
            for piece in pieces:
                part(piece.half(), past)

        cells, pixels = (height, width), (8 * height, 8 * width)
        decoding = peak_bytes(run, network.decoder, torch.empty(1, 16, 3, *cells), torch.empty(1, 16, 2, *cells))
        encoding = peak_bytes(run, network.encoder, torch.empty(1, 3, 9, *pixels), torch.empty(1, 3, 8, *pixels))

    assert 0.9 * decoding <= vae.memory_used_decode((1, 16, 33, *cells), torch.float16) <= 1.5 * decoding
    assert 0.9 * encoding <= vae.memory_used_encode(pixels, torch.float16) <= 1.5 * encoding
