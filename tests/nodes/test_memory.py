"""What we tell ComfyUI about memory, against what the networks hold at the published sizes (on the meta device)."""

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from exvideo_core.models.svd.config import UNetConfig, VAEConfig
from exvideo_core.models.svd.unet import SVDUNet
from exvideo_core.models.svd.vae import VAE


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors that are made inside of it and not yet freed."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.tensors = {}  # of each storage: how many share it, and its bytes

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                count, num_bytes = self.tensors.get(storage._cdata, (0, storage.nbytes()))
                self.tensors[storage._cdata] = (count + 1, num_bytes)
                self.now += 0 if count else num_bytes
                self.peak = max(self.peak, self.now)
                weakref.finalize(tensor, self._release, storage._cdata)
        return out

    def _release(self, storage):
        count, num_bytes = self.tensors.pop(storage)
        if count > 1:
            self.tensors[storage] = (count - 1, num_bytes)
        else:
            self.now -= num_bytes


def peak_bytes(function, *args):
    with torch.no_grad(), LiveBytes() as live:
        function(*args)
    return live.peak


def flash(q, _k, _v):
    """Attention that holds no scores; on the meta device torch would count them."""
    return torch.empty_like(q)


def test_unet(pack):
    sizes, frames = UNetConfig(extension_frames=128), 128
    with torch.device("meta"):
        unet = SVDUNet(sizes, attention=flash).half()
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
