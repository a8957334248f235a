"""The demo model's autoencoder: trained from nothing in minutes, with latents that can be moved.

Latents are smooth: resampling them (a zoom, a shift by part of a cell) and decoding shows the resampled picture. The
UNet then only has to learn a small local operation. Two things make them so: they start as principal components of
overlapping windows, and half of every batch is decoded from resampled latents.

The decoder's layers over time are left out at first. Then those of its coarse levels learn, with all else frozen, to
steady a clip whose frames have errors of their own; the others do nothing.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from exvideo_core.families.svd.config import VAEConfig
from exvideo_core.families.svd.vae import SCALING_FACTOR, SPATIAL_FACTOR, VAE
from exvideo_core.families.svd.vae_decoder import VideoResBlock
from exvideo_core.training.procedural.pictures import Pictures
from exvideo_core.training.procedural.push_in import FULL_BUCKET, LAST_FRAME, progress, push_in, resample
from exvideo_core.training.randomness import generator_of

DEMO_VAE = VAEConfig(widths=(24, 40, 56, 56))  # no multiples of 32: 32 groups would hold one or two channels each
_WINDOW = 16  # pixels; twice a cell, so that neighbouring windows overlap
_COLOUR = 0.5  # worth of colour against brightness; at 1, three of the four components would be flat colours
_WARM_STEPS = 120  # encoder and decoder are taught apart, both on the components
# where a flickering clip is steadied; at full size the layers over time would cost most and help least
_STEADIED = ("decoder.mid.", "decoder.up.3.", "decoder.up.2.")
_ANCHOR = 0.03  # pull towards the components afterwards


class Components:
    """The four principal components of overlapping windows: a linear encoder to start from."""

    def __init__(self, pictures_N3HW: Tensor, channels: int = 4) -> None:
        ramp = torch.hann_window(_WINDOW, periodic=False).clamp_min(0.05)
        self.weight = (ramp[:, None] * ramp[None, :]).expand(3, -1, -1).reshape(-1)
        windows = self._windows(pictures_N3HW).transpose(1, 2).reshape(-1, self.weight.numel()) * self.weight
        # not centred: an offset would not survive the zero padding of the decoder's first convolution
        values, vectors = torch.linalg.eigh(windows.T @ windows / len(windows))
        chosen, order = values[-channels:].flip(0), vectors[:, -channels:].flip(1)
        # halfway between equal variances and those of the pixels: what is seen most is least covered by noise
        scales = chosen**-0.25
        self.basis = order * (scales / (chosen * scales**2).mean().sqrt())

    def encode(self, pictures_N3HW: Tensor) -> Tensor:
        """[N, 3, H, W] to [N, 4, H / 8, W / 8], of unit variance over all channels."""
        height, width = (side // SPATIAL_FACTOR for side in pictures_N3HW.shape[-2:])
        windows = self._windows(pictures_N3HW) * self.weight[None, :, None]
        return torch.einsum("nkl,kc->ncl", windows, self.basis).unflatten(2, (height, width))

    def _windows(self, pictures_N3HW: Tensor) -> Tensor:
        margin = (_WINDOW - SPATIAL_FACTOR) // 2
        grey = pictures_N3HW.mean(dim=1, keepdim=True)
        muted = grey + _COLOUR * (pictures_N3HW - grey)
        padded = F.pad(muted, (margin,) * 4, mode="reflect")
        return F.unfold(padded, kernel_size=_WINDOW, stride=SPATIAL_FACTOR)


class _Still(nn.Module):
    """A block over time that does nothing."""

    def forward(self, parts: list[Tensor], _share: Tensor, _piece_bytes: int) -> list[Tensor]:
        return parts


class Autoencoder(nn.Module):
    """The trained part of the `VAE`: without the layers over time, or (`steadied`) with those of the coarse levels."""

    def __init__(self, config: VAEConfig = DEMO_VAE, steadied: bool = False) -> None:
        super().__init__()
        self.vae = VAE(config)
        for name, module in self.vae.named_modules():
            if isinstance(module, VideoResBlock):
                if steadied and name.startswith(_STEADIED):
                    _silence(module.time_stack.out_layers[3])
                    continue
                module.time_stack = _Still()  # type: ignore[assignment]  # stands in for it while training
                module.mix_factor.requires_grad_(False)
        mix = self.vae.decoder.conv_out.time_mix_conv
        _centre_tap(mix)
        mix.requires_grad_(False)

    @property
    def quant_conv(self) -> nn.Conv2d:
        """The encoder's last layer, which ours always has."""
        layer: nn.Conv2d | None = self.vae.quant_conv
        assert layer is not None
        return layer

    def encode(self, pictures_N3HW: Tensor) -> Tensor:
        """Latents of unit variance."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.training):  # 1.7 times faster
            moments = self.quant_conv(self.vae.encoder(pictures_N3HW))
        return moments[:, : self.vae.config.latent_channels].float()

    def decode(self, latents_NCHW: Tensor) -> Tensor:
        """Pictures of unit-variance latents."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.training):
            pictures: Tensor = self.vae.decoder(latents_NCHW)
        return pictures.float()


def reconstruction_loss(made_N3HW: Tensor, true_N3HW: Tensor) -> Tensor:
    """Absolute and squared error, of the pixels, of their differences and of what 4x4 pixels have in common."""
    error = made_N3HW - true_N3HW
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return error.abs().mean() + 0.5 * error.square().mean() + 0.35 * edges / 2 + F.avg_pool2d(error, 4).abs().mean()


def batch_shape(step: int, steps: int) -> tuple[int, int]:
    """Pictures and their side: small crops are cheap and varied, but norms must end up used to whole pictures."""
    return (2, 128) if step % 2 == 0 or step > 0.6 * steps else (8, 64)


def autoencoder_loss(
    model: Autoencoder, pictures: Pictures, components: Components, step: int, steps: int, generator: torch.Generator
) -> Tensor:
    """One step's loss on random pictures."""
    true = pictures.crops(*batch_shape(step, steps), generator)
    wanted = components.encode(true)
    made = model.encode(true)
    anchor = (made - wanted).square().mean()
    latents = wanted if step < _WARM_STEPS else made
    loss = _moved_loss(model, true, latents, generator)
    return loss + (1.0 if step < _WARM_STEPS else _ANCHOR) * anchor


def decoder_loss(model: Autoencoder, pictures: Pictures, generator: torch.Generator) -> Tensor:
    """One step's loss with the encoder as it is, which can be had while the UNet is already learning its latents."""
    true = pictures.crops(2, 128, generator)
    with torch.no_grad():
        latents = model.encode(true)
    return _moved_loss(model, true, latents, generator)


def _moved_loss(model: Autoencoder, true: Tensor, latents: Tensor, generator: torch.Generator) -> Tensor:
    """Reconstruction of half of the pictures as they are, and of the other half from resampled latents."""
    half = len(true) // 2
    views = random_views(true[half:], generator)
    moved = torch.cat([latents[:half], seen(latents[half:], views)])
    target = torch.cat([true[:half], seen(true[half:], views)])
    noise = 0.12 * torch.rand(len(true), 1, 1, 1, generator=generator)
    noisy = moved + noise * torch.randn(moved.shape, generator=generator)
    return reconstruction_loss(model.decode(noisy), target)


def steadying_loss(
    steadied: Autoencoder, still: Autoencoder, pictures: Pictures, side: int, generator: torch.Generator
) -> Tensor:
    """One step's loss of the decoder's layers over time: frames with noise of their own, to look as without.

    Sampled latents have small errors that change from frame to frame. Frames next to each other show almost the same,
    so their mean has less of it. Windows are of eight frames, as in `VAE.decode`.
    """
    picture = pictures.crops(1, side, generator)
    start, amount, strength = torch.rand(3, generator=generator).tolist()
    places = progress(start * (LAST_FRAME - 7) + torch.arange(8), FULL_BUCKET * min(1.0, 2 * amount))
    with torch.no_grad():
        latents = push_in(still.encode(picture)[0], places)
        wanted = still.decode(latents)
    noisy = latents + 0.15 * strength * torch.randn(latents.shape, generator=generator)
    error = steadied.decode(noisy) - wanted
    return 10 * (error.square().mean() + error.diff(dim=0).square().mean())


@torch.no_grad()
def latent_spread(model: Autoencoder, pictures: Pictures, count: int, seed: int) -> float:
    """Root mean square of an autoencoder's latents."""
    generator = generator_of(seed, 2)
    latents = torch.cat([model.encode(pictures.crops(1, 128, generator)) for _ in range(count)])
    return float(latents.square().mean().sqrt())


@torch.no_grad()
def assemble(weights: dict[str, Tensor], latent_std: float, config: VAEConfig = DEMO_VAE) -> VAE:
    """The whole `VAE` from an `Autoencoder`'s weights, with latents of the usual scale.

    Layers over time that are not among the weights do nothing.
    """
    vae = VAE(config)
    for name, module in vae.named_modules():
        if name.endswith("time_stack.out_layers.3"):
            _silence(module)
    vae.load_state_dict({name.removeprefix("vae."): weight for name, weight in weights.items()}, strict=False)
    for name, p in vae.named_parameters():
        if name.endswith("mix_factor") and f"vae.{name[:-10]}time_stack.in_layers.0.weight" not in weights:
            p.fill_(-6.0)  # the decoder's mix is the share of the layers over time
    # raw latents times SCALING_FACTOR have unit variance: a pure factor, so it can move into the neighbouring layers
    factor = 1 / (SCALING_FACTOR * latent_std)
    channels = config.latent_channels
    assert vae.quant_conv is not None
    vae.quant_conv.weight[:channels] *= factor
    vae.quant_conv.bias[:channels] *= factor
    vae.decoder.conv_in.weight /= factor
    return vae


def random_views(x_NCHW: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Scales and shifts for `resample` that stay inside the picture: [N] and [N, 2]."""
    scale_N = 1 - 0.22 * torch.rand(len(x_NCHW), generator=generator)
    shift_N2 = (2 * torch.rand(len(x_NCHW), 2, generator=generator) - 1) * (1 - scale_N)[:, None]
    return scale_N, shift_N2


def seen(x_NCHW: Tensor, views: tuple[Tensor, Tensor]) -> Tensor:
    """Pictures or latents through the given views."""
    return resample(x_NCHW, *views)


def _silence(layer: nn.Module) -> None:
    for p in layer.parameters():
        nn.init.zeros_(p)


def _centre_tap(conv: nn.Conv3d) -> None:
    with torch.no_grad():
        nn.init.dirac_(conv.weight)
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)
