"""What we tell ComfyUI about memory, against what the networks hold at the published sizes (on the meta device)."""

import torch

from exvideo_core.counting import count
from exvideo_core.models.cogvideox import config as cog
from exvideo_core.models.cogvideox.transformer import CogVideoXTransformer
from exvideo_core.models.cogvideox.vae import CogVideoXVAE
from exvideo_core.models.svd.config import UNetConfig, VAEConfig
from exvideo_core.models.svd.unet import SVDUNet
from exvideo_core.models.svd.vae import VAE


def peak_bytes(function, *args):
    return count(lambda: function(*args)).peak


def test_unet(pack):
    sizes, frames = UNetConfig(extension_frames=128), 128
    with torch.device("meta"):
        unet = SVDUNet(sizes).half()
        x, context = torch.empty(frames, 8, 64, 64).half(), torch.empty(1, 1, 1024).half()
        peak = peak_bytes(unet, x, torch.empty(1), context, torch.empty(1, 3))
    config = pack.adapters.model.SVDModelConfig(sizes, torch.float16, None)
    told = pack.adapters.model.SVDModel(config, device="meta").memory_required([frames, 4, 64, 64])

    assert 0.9 * peak <= told <= 1.5 * peak


def test_vae(loaded, monkeypatch):
    told = loaded[2].memory_used_decode, loaded[2].memory_used_encode
    monkeypatch.setattr(loaded[2].first_stage_model, "config", VAEConfig())
    with torch.device("meta"):
        vae = VAE(VAEConfig()).half()
        decoding = peak_bytes(vae.decoder, torch.empty(8, 4, 64, 64).half())
        encoding = peak_bytes(vae.encoder, torch.empty(1, 3, 512, 512).half())

    assert 0.9 * decoding <= told[0]((128, 4, 64, 64), torch.float16) <= 1.5 * decoding
    assert 0.9 * encoding <= told[1]((1, 3, 512, 512), torch.float16) <= 1.5 * encoding


def test_cogvideox_transformer(pack):
    sizes = cog.TransformerConfig(layers=2)  # more of them need no more
    with torch.device("meta"):
        transformer = CogVideoXTransformer(sizes).half()
        clips = torch.empty(2, 16, 33, 60, 90).half(), torch.empty(2), torch.empty(2, 226, sizes.text_dim).half()
        peak = peak_bytes(transformer, *clips)
    config = pack.adapters.cogvideox_model.CogVideoXModelConfig(sizes, torch.float16, None)
    told = pack.adapters.cogvideox_model.CogVideoXModel(config, device="meta").memory_required([2, 16, 33, 60, 90])

    assert 0.9 * peak <= told <= 1.5 * peak


def test_cogvideox_vae(cog_loaded, monkeypatch):
    vae = cog_loaded[2]
    monkeypatch.setattr(vae.first_stage_model, "config", cog.VAEConfig())
    with torch.device("meta"):
        network = CogVideoXVAE(cog.VAEConfig()).half()

        def run(part, *pieces):  # the convolutions remember the piece before
            past = {}
            for piece in pieces:
                part(piece.half(), past)

        decoding = peak_bytes(run, network.decoder, torch.empty(1, 16, 3, 60, 90), torch.empty(1, 16, 2, 60, 90))
        encoding = peak_bytes(run, network.encoder, torch.empty(1, 3, 9, 480, 720), torch.empty(1, 3, 8, 480, 720))

    assert 0.9 * decoding <= vae.memory_used_decode((1, 16, 33, 60, 90), torch.float16) <= 1.5 * decoding
    assert 0.9 * encoding <= vae.memory_used_encode((480, 720), torch.float16) <= 1.5 * encoding
