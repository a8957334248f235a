"""Post-tuning Stable Video Diffusion: ExVideo's extension, new or from a file, with everything else frozen.

Shapes: T frames, C channels, H and W latent cells, D channels of the picture's embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ...errors import ExVideoError
from ...runtime.distributed import World
from ...sampling.inputs import attention_named
from ...training.procedural.pictures import Pictures
from ...training.randomness import generator_of, uniform
from ...training.recipe import HELD_OUT_SEED, SAMPLING_STEPS, Target, TrainingRecipe
from ...training.sources import PROCEDURAL, OnPrepare, Source, check_procedural, encoding_format
from ...video import save_video
from ...weights.assign import shapes_of
from ...weights.formats import FORMATS, converted
from .blocks import ResBlock
from .checkpoint import SVDWeights, extended_shapes, read_svd
from .clips import SVDClip, clips_of_videos
from .files import DEMO_CHECKPOINT, DEMO_EXTENSION
from .keys import extension_site
from .objective import lognormal_sigmas, script_sigmas, svd_denoised, svd_loss
from .pipeline import build_svd, load_svd
from .procedural import SIDE, Gallery, PushIns
from .save import save_extension
from .temporal import TemporalExtension
from .training_config import SVDModel, SVDTraining
from .transformer import SpatioTemporalTransformer
from .unet import SVDUNet
from .vae import VAE

# Where held-out loss is taken: from grain to where only the picture tells what to show.
HELD_OUT_SIGMAS = (0.2, 1.0, 5.0, 50.0)


class SVDTarget(Target[SVDTraining, SVDClip]):
    """See `Target`; `unet` is built over the extended `weights`, and `vae` encodes pictures with noise on them."""

    held_out_levels = HELD_OUT_SIGMAS

    def __init__(
        self,
        config: SVDTraining,
        weights: SVDWeights,
        unet: SVDUNet,
        vae: VAE,
        source: Source[SVDClip],
        device: torch.device,
    ) -> None:
        units = trained_units(unet, config.model.trainable)
        super().__init__(config, unet, units, (ResBlock, SpatioTemporalTransformer), source, device)
        self.unet, self.vae = unet, vae
        # exported as they were read, also where the frozen network computes in fewer bits
        self._originals = {name: weight for name, weight in weights.unet.items() if extension_site(name)}
        self._levels = script_sigmas()

    def loss(self, position: int, step: int) -> Tensor:
        objective = self.config.objective
        generator = generator_of(self.config.run.seed, position)
        clip = self.source.training(position, generator)
        frames = self.window(len(clip.latents_TCHW), step, generator)
        sigma = self._draw_sigma(generator)
        image_latents, noise_aug = self._condition(clip, generator)
        has_picture = float(uniform(generator) >= objective.condition_dropout)
        inputs = self._inputs(
            clip, frames, has_picture * image_latents, has_picture * clip.context_1D, noise_aug, sigma, generator
        )
        _, loss = svd_loss(*inputs, target_scale=objective.target_scale)
        sigma = sigma.to(self.device)
        # the error of v has the same factor twice
        return loss if objective.weighting == "script" else loss * torch.sqrt(1 + sigma**2) / sigma

    @torch.no_grad()
    def held_out_errors(self, item: int) -> Tensor:
        index, level = divmod(item, len(HELD_OUT_SIGMAS))
        clip, sigma = self.source.held_out(index), torch.tensor(HELD_OUT_SIGMAS[level])
        frames, noise_aug = range(len(clip.latents_TCHW)), self.config.objective.image_noise
        generator = generator_of(HELD_OUT_SEED, index)
        inputs = self._inputs(clip, frames, clip.latents_TCHW[0], clip.context_1D, noise_aug, sigma, generator)
        denoised_TCHW, total = svd_denoised(*inputs)
        error_T = (denoised_TCHW - inputs[1]).square().mean(dim=(1, 2, 3))
        return (error_T * (total / sigma.to(self.device)) ** 2).cpu()

    def _inputs(
        self,
        clip: SVDClip,
        frames: range,
        image_latents_CHW: Tensor,
        context_1D: Tensor,
        noise_aug: float,
        sigma: Tensor,
        generator: torch.Generator,
    ) -> tuple[Callable[..., Tensor], Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Arguments of `svd_loss`: the network on these places of the clip, and what it is given."""
        latents_TCHW = clip.latents_TCHW[frames.start : frames.stop] * self.config.objective.latent_scale
        noise = torch.randn(latents_TCHW.shape, generator=generator)
        ids = torch.tensor([[clip.fps - 1, clip.motion_bucket_id, noise_aug]])
        given = (latents_TCHW, image_latents_CHW, context_1D, ids, sigma, noise)
        latents_TCHW, image, context, ids, sigma, noise = (x.to(self.device, torch.float32) for x in given)

        def network(x_TCHW: Tensor, *conditions: Tensor) -> Tensor:
            return self.unet(x_TCHW.to(self.dtype), *conditions, len(frames), frames)

        return network, latents_TCHW, image, context, ids, sigma, noise

    def export(self, weights: Mapping[str, Tensor], path: Path) -> None:
        save_extension(path, converted(self._originals | dict(weights), FORMATS[self.config.run.export_format]))

    def sample(self, exported: Path, video: Path) -> None:
        clip, data = self.source.held_out(0), self.config.data
        plain = 1.0 if self.config.model.checkpoint == "demo" else None  # it was trained without guidance
        pipeline = load_svd(checkpoint_of(self.config.model), exported, device=self.device)
        result = pipeline(
            (clip.picture_3HW.permute(1, 2, 0) + 1) / 2,
            width=data.width,
            height=data.height,
            fps=clip.fps,
            motion_bucket_id=clip.motion_bucket_id,
            num_inference_steps=SAMPLING_STEPS,
            min_guidance_scale=plain,
            max_guidance_scale=plain,
            contrast=plain,
        )
        save_video(result.frames, video, fps=clip.fps)

    def _draw_sigma(self, generator: torch.Generator) -> Tensor:
        objective = self.config.objective
        if objective.noise_levels == "schedule":
            return self._levels[torch.randint(0, len(self._levels), (), generator=generator)]
        return lognormal_sigmas(1, objective.lognormal_mean, objective.lognormal_std, generator)[0]

    def _condition(self, clip: SVDClip, generator: torch.Generator) -> tuple[Tensor, float]:
        """Raw latents of the picture, with noise on it, and how much noise."""
        objective = self.config.objective
        if not objective.image_noise:
            return clip.latents_TCHW[0], 0.0
        spread = objective.image_noise_std * float(torch.randn((), generator=generator))
        strength = objective.image_noise * float(torch.tensor(spread).exp())
        noise = torch.randn(clip.picture_3HW.shape, generator=generator)
        with torch.no_grad():
            return self.vae.encode((clip.picture_3HW + strength * noise)[None])[0].float().cpu(), strength


def trained_units(unet: SVDUNet, scope: str) -> dict[str, nn.Module]:
    """The trained modules by their names in the UNet: with 'temporal', those of the published file."""
    units: dict[str, nn.Module] = {}
    for name, module in unet.named_modules():
        if isinstance(module, SpatioTemporalTransformer):
            assert module.extension is not None
            units[f"{name}.extension"] = module.extension
            if scope == "temporal":
                units[f"{name}.time_pos_embed"] = module.time_pos_embed
                units[f"{name}.time_stack.0"] = module.time_stack[0]
    return units


def checkpoint_of(model: SVDModel) -> Path:
    return DEMO_CHECKPOINT if model.checkpoint == "demo" else Path(model.checkpoint)


def read_weights(model: SVDModel) -> SVDWeights:
    """The base with the extension to train."""
    extension = DEMO_EXTENSION if model.extension == "demo" else model.extension
    weights = read_svd(checkpoint_of(model), Path(extension) if extension else None)
    if weights.extension_frames is None:
        return with_new_extension(weights, model.num_frames, folded=model.position_init == "folded")
    if weights.extension_frames != model.num_frames:
        raise ExVideoError(
            f"{' with '.join(weights.sources)} has an extension for {weights.extension_frames} frames, and "
            f"model.num_frames is {model.num_frames}; set it to {weights.extension_frames}, or start a new extension "
            f"(model.extension: null)."
        )
    return weights


def with_new_extension(weights: SVDWeights, num_frames: int, *, folded: bool) -> SVDWeights:
    """Weights with a new extension that changes nothing yet."""
    new: dict[str, Tensor] = {}
    for name, shape in extended_shapes(shapes_of(weights.unet), num_frames).items():
        if name.endswith(".extension.positions.weight"):
            extension = TemporalExtension(shape[1], num_frames)
            extension.reset(folded)
            site = name.removesuffix("positions.weight")
            new |= {f"{site}{part}": weight for part, weight in extension.state_dict().items()}
    return replace(weights, unet=weights.unet | new, extension_frames=num_frames)


def build_target(config: SVDTraining, world: World, on_prepare: OnPrepare | None = None) -> SVDTarget:
    """Stable Video Diffusion with its extension, and clips."""
    weights = read_weights(config.model)
    unet, vae, image_encoder = build_svd(weights, attention_named(config.run.attention))
    for encoder in (vae, image_encoder):
        encoder.requires_grad_(False).to(world.device, encoding_format(world.device))
    if config.data.source == PROCEDURAL:
        data, seed = config.data, config.run.seed
        check_procedural(data, SIDE, data.pictures - 1)
        pictures = Pictures(photos=data.photographs, seed=seed)
        gallery = Gallery(pictures, vae, image_encoder, data.pictures, seed)
        source: Source[SVDClip] = PushIns(gallery, config.model.num_frames, data.held_out)
    else:
        source = clips_of_videos(config, weights, (vae, image_encoder), world, on_prepare)
    image_encoder.to("meta")  # its work is done
    if not config.objective.image_noise:
        vae.to("meta")
    return SVDTarget(config, weights, unet, vae, source, world.device)


def parts(config: SVDTraining) -> tuple[SVDUNet, dict[str, nn.Module]]:
    """The UNet with its extension, and what is trained of it."""
    unet, *_ = build_svd(read_weights(config.model), attention_named(config.run.attention))
    return unet, trained_units(unet, config.model.trainable)


RECIPE = TrainingRecipe(config=SVDTraining, build=build_target, parts=parts)
