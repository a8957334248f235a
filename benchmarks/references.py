"""DiffSynth-Studio 1.1.9 and diffusers as benchmark engines; both are imported only when used."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from benchmarks.engine import COG_SCALE, SVD_SCALE, Config, Network, Networks, Task, Weights, base, extension
from exvideo_core.families.cogvideox.rope import rope_angles


def diffsynth(submodule: str) -> Any:
    """Import one submodule of DiffSynth, without its packages' `__init__`, which import all models."""
    if "diffsynth" not in sys.modules:
        spec = importlib.util.find_spec("diffsynth")
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError("the reference needs diffsynth==1.1.9 (pip install --no-deps)")
        packages = ("models", "pipelines", "prompters", "schedulers")
        for package in ("diffsynth", *(f"diffsynth.{name}" for name in packages)):
            module = ModuleType(package)
            module.__path__ = [str(Path(spec.origin).parent.joinpath(*package.split(".")[1:]))]
            sys.modules[package] = module
    return importlib.import_module(f"diffsynth.{submodule}")


def rotary(given: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Cosines and sines of CogVideoX's RoPE, [tokens, 64], an input of both references' transformers.

    Computed by this core, whose angles equal DiffSynth's; diffusers 0.42 changed its own.
    """
    frames, height, width = given["latents"].shape[2:]
    angles = rope_angles(torch.arange(frames, device=given["latents"].device), height // 2, width // 2, 64)
    angles = angles.repeat_interleave(2, dim=-1)
    return angles.cos(), angles.sin()


# DiffSynth-Studio


def _synth_unet(cfg: Config) -> Network:
    unet = diffsynth("models.svd_unet").SVDUNet(add_positional_conv=cfg.get("ext") or None)
    # it takes the noise level as a float, which a meta tensor does not have
    return unet, lambda given: unet(given["sample"], _number(given["timestep"]), given["ctx"], given["ids"])


def _number(value: Tensor) -> float:
    return 0.0 if value.is_meta else value.item()


def _synth_dit(cfg: Config) -> Network:
    dit = diffsynth("models.cog_dit").CogDiT()
    dit.blocks = dit.blocks[: cfg.get("layers", 42)]
    tables: list[tuple[Tensor, Tensor]] = []

    def call(given: Any) -> Tensor:
        if not tables:
            tables.append(rotary(given))
        return dit(given["latents"], given["timestep"], given["prompt"], image_rotary_emb=tables[0])

    return dit, call


def _synth_vae(_cfg: Config) -> Network:
    decoder = diffsynth("models.svd_vae_decoder").SVDVAEDecoder()
    return decoder, lambda given: decoder(given["latents"].transpose(0, 1)).transpose(0, 1)


def _synth_encode(_cfg: Config) -> Network:
    encoder = diffsynth("models.svd_vae_encoder").SVDVAEEncoder()
    return encoder, lambda given: torch.cat([encoder(frame[None]) for frame in given["video"]])


def _synth_cog_vae(_cfg: Config) -> Network:
    decoder = diffsynth("models.cog_vae").CogVAEDecoder()
    return decoder, lambda given: decoder.decode_small_video(given["latents"])


def _synth_cog_encode(_cfg: Config) -> Network:
    encoder = diffsynth("models.cog_vae").CogVAEEncoder()
    return encoder, lambda given: encoder.encode_small_video(given["video"])


def _synth_name_unet(weights: Weights) -> Weights:
    named = diffsynth("models.svd_unet").SVDUNet.state_dict_converter().from_diffusers(base(weights))
    return (named[0] if isinstance(named, tuple) else named) | extension(weights)


def _synth_name(module: str, network: str, half: str = "") -> Any:
    def name(weights: Weights) -> Weights:
        part = {name: weight for name, weight in weights.items() if name.startswith(half)}
        return getattr(diffsynth(module), network).state_dict_converter().from_diffusers(part)

    return name


_SYNTH: Mapping[str, Task] = {
    "svd_unet": (_synth_unet, _synth_name_unet),
    "cog_dit": (_synth_dit, _synth_name("models.cog_dit", "CogDiT")),
    "svd_vae": (_synth_vae, _synth_name("models.svd_vae_decoder", "SVDVAEDecoder")),
    "cog_vae": (_synth_cog_vae, _synth_name("models.cog_vae", "CogVAEDecoder", "decoder.")),
    "svd_encode": (_synth_encode, _synth_name("models.svd_vae_encoder", "SVDVAEEncoder")),
    "cog_encode": (_synth_cog_encode, _synth_name("models.cog_vae", "CogVAEEncoder", "encoder.")),
}


class DiffSynth(Networks):
    """DiffSynth-Studio 1.1.9, the reference implementation of ExVideo."""

    def __init__(self) -> None:
        super().__init__("diffsynth", _SYNTH)


# diffusers


def _fusers_unet(cfg: Config) -> Network:
    from diffusers import UNetSpatioTemporalConditionModel

    unet = UNetSpatioTemporalConditionModel(num_frames=25, num_attention_heads=(5, 10, 20, 20))

    def call(given: Any) -> Tensor:
        return unet(given["sample"][None], given["timestep"], given["ctx"][:, None], given["ids"]).sample[0]

    return unet, call


def _fusers_dit(cfg: Config) -> Network:
    from diffusers import CogVideoXTransformer3DModel

    dit = CogVideoXTransformer3DModel(
        num_attention_heads=48,
        num_layers=cfg.get("layers", 42),
        use_rotary_positional_embeddings=True,
    )
    tables: list[tuple[Tensor, Tensor]] = []

    def call(given: Any) -> Tensor:
        if not tables:
            tables.append(rotary(given))
        latents_BTCHW = given["latents"].transpose(1, 2)
        result = dit(latents_BTCHW, given["prompt"], given["timestep"], image_rotary_emb=tables[0]).sample
        return result.transpose(1, 2)

    return dit, call


def _fusers_svd(cfg: Config) -> Any:
    from diffusers import AutoencoderKLTemporalDecoder

    widths = (128, 256, 512, 512)
    kinds = ("DownEncoderBlock2D",) * len(widths)
    return AutoencoderKLTemporalDecoder(block_out_channels=widths, down_block_types=kinds, layers_per_block=2)


def _fusers_vae(cfg: Config) -> Network:
    vae = _fusers_svd(cfg)
    return vae, lambda given: vae.decode(given["latents"] / SVD_SCALE, num_frames=len(given["latents"])).sample


def _fusers_encode(cfg: Config) -> Network:
    vae = _fusers_svd(cfg)
    return vae, lambda given: torch.cat([vae.encode(frame[None]).latent_dist.mode() for frame in given["video"]])


def _fusers_cog(_cfg: Config) -> Any:
    from diffusers import AutoencoderKLCogVideoX

    levels, widths = 4, (128, 256, 256, 512)
    return AutoencoderKLCogVideoX(
        block_out_channels=widths,
        down_block_types=("CogVideoXDownBlock3D",) * levels,
        up_block_types=("CogVideoXUpBlock3D",) * levels,
        layers_per_block=3,
        scaling_factor=COG_SCALE,
    )


def _fusers_cog_vae(cfg: Config) -> Network:
    vae = _fusers_cog(cfg)
    return vae, lambda given: vae.decode(given["latents"] / COG_SCALE).sample


def _fusers_cog_encode(cfg: Config) -> Network:
    vae = _fusers_cog(cfg)
    return vae, lambda given: vae.encode(given["video"]).latent_dist.mode()


_FUSERS: Mapping[str, Task] = {
    "svd_unet": (_fusers_unet, base),
    "cog_dit": (_fusers_dit, dict),
    "svd_vae": (_fusers_vae, dict),
    "cog_vae": (_fusers_cog_vae, dict),
    "svd_encode": (_fusers_encode, dict),
    "cog_encode": (_fusers_cog_encode, dict),
}


class Diffusers(Networks):
    """diffusers, which has SVD without the extension."""

    def __init__(self) -> None:
        super().__init__("diffusers", _FUSERS)
