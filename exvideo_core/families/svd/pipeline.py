"""From one picture to a clip: Stable Video Diffusion with ExVideo's extension (arXiv:2311.15127, arXiv:2406.14130).

Shapes: T frames, C channels, H and W pixels, h and w latent cells of 8x8 pixels, D channels of the embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from ...errors import ClipError
from ...nn.attention import Attention, sdpa
from ...nn.nan_check import checked
from ...nn.out_of_memory import retry_with_smaller_tiles
from ...nn.step_cache import Branch, Reuse, StepCache
from ...progress import Progress
from ...runtime import oom_hints
from ...runtime.guidance_branches import Branches, branches
from ...runtime.memory import free_bytes, temporarily_on
from ...runtime.pipeline_resume import Resume, begin
from ...runtime.weight_streaming import WeightStream
from ...sampling import (
    Levels,
    frame_guidance,
    guide,
    normalize_frames,
    pin_frames,
    v_prediction,
)
from ...sampling.inputs import (
    Picture,
    Place,
    attention_named,
    check_finite,
    check_init_video,
    checked_noise,
    chosen_devices,
    draw_noise,
    named,
)
from ...sampling.samplers import Callback
from ...video.frames import cover_crop, pixels_to_frames, to_pixels
from ...weights.assign import assign_weights, shapes_of, sized_by
from .blocks import Upsample
from .checkpoint import SVDWeights, read_svd
from .conditioning import Conditioning, condition
from .config import ImageEncoderConfig, UNetConfig, VAEConfig
from .geometry import GEOMETRY
from .image_encoder import ImageEncoder, fill_buffers
from .lazy_frames import HostTensor
from .methods import METHODS
from .unet import SVDUNet
from .vae import LARGEST_TILE, SCALING_FACTOR, VAE


@dataclass(frozen=True, kw_only=True)
class SVDDefaults:
    """What a call uses where nothing is said."""

    num_frames: int
    fps: int
    min_guidance_scale: float
    max_guidance_scale: float
    normalize: bool
    contrast: float  # factor on the latents


PLAIN = SVDDefaults(num_frames=25, fps=7, min_guidance_scale=1.0, max_guidance_scale=3.0, normalize=False, contrast=1.0)


def extended_defaults(extension_frames: int) -> SVDDefaults:
    """Settings of the ExVideo project's own example (examples/ExVideo/ExVideo_svd_test.py).

    Its training targets were 0.715 times too small (spec: encode scale), which the contrast partly makes up for.
    """
    return SVDDefaults(
        num_frames=extension_frames,
        fps=30,
        min_guidance_scale=2.0,
        max_guidance_scale=2.0,
        normalize=True,
        contrast=1.2,
    )


@dataclass(frozen=True, kw_only=True)
class SVDResult:
    """A finished clip.

    Attributes:
        frames: float32 [T, H, W, 3] in [0, 1], on the CPU.
        latents: float32 [T, 4, h, w], what was decoded, in the UNet's scale (after normalising and contrast).
    """

    frames: Tensor
    latents: Tensor


class SVDPipeline:
    """The three networks and the way from a picture to frames.

    Attributes:
        unet: predicts v.
        vae: `encode` and `decode` between pixels in [-1, 1] and raw latents.
        image_encoder: pixels in [-1, 1] of any size, [B, 3, H, W], to [B, D]; on the CPU, from where it visits the
            device while it is needed.
        devices: of guidance's branches, one for both or one for each; empty is where the UNet is.
        stream: where the UNet's weights come from, block by block; None where all are on the device.
        extension_frames: frames the extension was trained for; None is plain SVD.
        defaults: what `__call__` uses where nothing is said.
    """

    def __init__(
        self,
        unet: SVDUNet,
        vae: VAE,
        image_encoder: ImageEncoder,
        *,
        devices: Sequence[torch.device] = (),
        stream: WeightStream | None = None,
    ) -> None:
        self.unet, self.vae, self.image_encoder = unet, vae, image_encoder
        self.devices, self.stream = devices, stream
        self.extension_frames = unet.config.extension_frames
        self.defaults = extended_defaults(self.extension_frames) if self.extension_frames else PLAIN

    @property
    def device(self) -> torch.device:
        return self.devices[0] if self.devices else next(self.unet.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.unet.parameters()).dtype

    @torch.inference_mode()
    @oom_hints.sampling
    def __call__(  # noqa: PLR0913  every one is a setting that users know
        self,
        image: Picture,
        *,
        num_frames: int | None = None,
        height: int = 512,
        width: int = 512,
        fps: float | None = None,
        motion_bucket_id: float = 127,
        noise_aug_strength: float = 0.02,
        num_inference_steps: int = 50,
        min_guidance_scale: float | None = None,
        max_guidance_scale: float | None = None,
        normalize: bool | None = None,
        contrast: float | None = None,
        denoise: float = 1.0,
        init_video: Sequence[Picture] | None = None,
        keyframes: Mapping[int, Picture] | None = None,
        encode_scale: float = SCALING_FACTOR,
        seed: int = 0,
        latents: Tensor | None = None,
        image_noise: Tensor | None = None,
        method: str = "euler",
        reuse: Reuse | None = None,
        callback: Callback | None = None,
        decode_progress: Progress | None = None,
        resume: Resume = None,
    ) -> SVDResult:
        """Make a clip.

        Args:
            image: the first frame; resized to cover width x height and cropped.
            num_frames: T; the extension's length, or 25 without one.
            height, width: in pixels, multiples of 8, at least 128.
            fps: frames a second the network is told; 30, or 7 without an extension.
            motion_bucket_id: amount of motion, 0 to 255.
            noise_aug_strength: noise on the conditioning picture; more lets the clip leave it further.
            num_inference_steps: model calls; `denoise` does not change their number.
            min_guidance_scale: guidance of the first frame; 2, or 1 without an extension.
            max_guidance_scale: guidance of the last frame; 2, or 3 without an extension. Both 1: half the time.
            normalize: give all frames the mean and spread of the clip; only with an extension.
            contrast: factor on the latents; 1.2, or 1 without an extension.
            denoise: above 0, at most 1; how far `init_video` is changed.
            init_video: T pictures to start from.
            keyframes: pictures that the frames of these indices are held to.
            encode_scale: of `init_video` and `keyframes`; 0.13025 is DiffSynth-Studio 1.1.9's, which greys them.
            seed: of the noise where `latents` or `image_noise` are not given.
            latents: unit noise [T, 4, h, w].
            image_noise: unit noise [1, 3, H, W].
            method: a name in `METHODS`; docs/approximations.md compares them.
            reuse: when a step may be predicted from those before, faster and not exact; None computes all.
            callback: called after each step with (step, steps, denoised latents); may raise to stop.
            decode_progress: called after each decoded window with (done, all).
            resume: file to keep the state of the run in, or a `SavedRun`; a call with the same arguments that finds it
                goes on after the step it was saved at. Delete it when the video is saved.

        Raises:
            ClipError: frames or size that the model cannot make.
            NumberError: NaN or infinity came up; says in which step and layer, and what to do.
            ExVideoError: there is no such method.
        """
        default, way = self.defaults, named("method", method, METHODS)
        num_frames = default.num_frames if num_frames is None else num_frames
        self._check(num_frames, width, height, denoise, init_video, keyframes)
        frames, *cells = GEOMETRY.latent_shape(num_frames, height, width)
        cell_shape = (frames, self.vae.config.latent_channels, *cells)
        noise = draw_noise(cell_shape, seed) if latents is None else checked_noise("latents", latents, cell_shape)
        pixel_shape = (1, 3, height, width)
        with temporarily_on(self.image_encoder, self.device, free_bytes(self.device)):
            conditioning = condition(
                self._pixels(image, width, height),
                self.vae.encode,
                self.image_encoder,
                fps=default.fps if fps is None else fps,
                motion_bucket_id=motion_bucket_id,
                noise_aug_strength=noise_aug_strength,
                image_noise=draw_noise(pixel_shape, seed)
                if image_noise is None
                else checked_noise("image_noise", image_noise, pixel_shape),
            )

        def encode(pictures: Sequence[Picture]) -> Tensor:
            frames = [self._pixels(picture, width, height) for picture in pictures]
            return torch.cat([self.vae.encode(frame[None]) for frame in frames]).float() * encode_scale

        clean = encode(init_video).to(self.device) if init_video else None
        pinned = (
            dict(zip(keyframes, encode(list(keyframes.values())).to(self.device), strict=True)) if keyframes else {}
        )
        scale = frame_guidance(
            num_frames,
            default.min_guidance_scale if min_guidance_scale is None else min_guidance_scale,
            default.max_guidance_scale if max_guidance_scale is None else max_guidance_scale,
        )
        noise = noise.to(self.device, torch.float32)
        levels = Levels.from_sigmas(way.schedule(num_inference_steps, denoise).to(self.device))
        is_guided = bool((scale != 1).any())
        devices = (self.devices or [self.device])[: 1 + is_guided]
        cache = StepCache(reuse, num_inference_steps, free_bytes) if reuse else None
        first = levels.start(noise, clean)
        told = {"conditioning": conditioning, "guidance": scale, "method": method, "reuse": reuse, "devices": devices}
        held = {"keyframes": pinned, "noise": noise if pinned else None}
        recording = begin(resume, self.unet, first, levels.values, {"reuse": cache}, **told, **held)
        with branches(self.unet, devices, self.stream) as unets:
            denoiser = pin_frames(self._denoiser(unets, conditioning, scale, cache), pinned, noise)
            result = way.solve(denoiser, first, levels, callback, recording)
        if default.normalize if normalize is None else normalize:
            result = normalize_frames(result)
        result = result * (default.contrast if contrast is None else contrast)
        return self._decode(result, decode_progress)

    def _denoiser(
        self, unets: Branches, on: Conditioning, scale_T111: Tensor, cache: StepCache | None
    ) -> Callable[[Tensor, Tensor], Tensor]:
        is_guided, scale_T111 = bool((scale_T111 != 1).any()), scale_T111.to(self.device)
        # the negative branch knows nothing of the picture, but the same ids
        positive, negative = (
            [t.to(device) for t in (strength * on.image_latents, strength * on.embedding, on.ids)]
            for strength, device in zip((1.0, 0.0), unets.devices, strict=True)
        )

        def velocity(x_TCHW: Tensor, timestep: Tensor) -> Tensor:
            told, untold = cache.branches(2) if cache else (None, None)
            if not is_guided:
                return unets.one(self._predict, (told, x_TCHW, timestep, *positive))
            both = unets.both(self._predict, (told, x_TCHW, timestep, *positive), (untold, x_TCHW, timestep, *negative))
            return guide(*both, scale_T111)

        return v_prediction(velocity)

    def _predict(
        self,
        unet: nn.Module,
        memory: Branch | None,
        x_TCHW: Tensor,
        timestep: Tensor,
        picture_1CHW: Tensor,
        embedding: Tensor,
        ids: Tensor,
    ) -> Tensor:
        both = torch.cat([x_TCHW, picture_1CHW.expand(len(x_TCHW), -1, -1, -1)], dim=1).to(self.dtype)
        compute = partial(unet, both, timestep, embedding, ids)
        given = {"the noisy latents": both, "the picture's embedding": embedding}
        return checked(compute(memory=memory), unet, compute, given).float()

    @oom_hints.decoding
    def _decode(self, latents_TCHW: Tensor, progress: Progress | None) -> SVDResult:
        check_finite(latents_TCHW)
        side = min(max(latents_TCHW.shape[-2:]), LARGEST_TILE)
        pixels = retry_with_smaller_tiles(
            lambda tile: self.vae.decode(latents_TCHW / SCALING_FACTOR, progress, tile), side
        )
        return SVDResult(frames=pixels_to_frames(pixels), latents=latents_TCHW.float().cpu())

    def _pixels(self, picture: Picture, width: int, height: int) -> Tensor:
        return to_pixels(cover_crop(picture, width, height)).to(self.device)

    def _check(
        self,
        num_frames: int,
        width: int,
        height: int,
        denoise: float,
        init_video: Sequence[Picture] | None,
        keyframes: Mapping[int, Picture] | None,
    ) -> None:
        GEOMETRY.check_size(width, height)
        GEOMETRY.check_frames(num_frames, self.extension_frames)
        check_init_video(init_video, num_frames, denoise)
        if outside := [index for index in keyframes or {} if not 0 <= index < num_frames]:
            raise ClipError(f"keyframe {outside[0]} is outside of the clip: its frames are 0 to {num_frames - 1}.")


@oom_hints.loading
def load_svd(
    checkpoint: str | Path,
    extension: str | Path | None = None,
    dtype: torch.dtype | None = None,
    device: Place = None,
    attention: str = "auto",
    stream: bool = False,
) -> SVDPipeline:
    """Load Stable Video Diffusion, with ExVideo's extension over it.

    Args:
        checkpoint: a file like svd_xt.safetensors, or a folder in diffusers' layout.
        extension: a file like ExVideo-SVD-128f-v1's model.fp16.safetensors, of any length; None is plain SVD.
        dtype: of the networks; float16 on CUDA, else float32.
        device: CUDA where there is one. Two, such as "cuda:0,cuda:1", share the work of guidance, each with a copy of
            the UNet; the other networks are on the first.
        attention: a name in `exvideo_core.nn.attention.BACKENDS`; auto chooses an exact one by the device.
        stream: keep the UNet in main memory, and in a run its skips, for a small card.

    Raises:
        CheckpointError: a file is damaged, not what its place needs, or the two do not belong together.
        ExVideoError: a device or the attention cannot be used.
    """
    backend, devices = attention_named(attention), chosen_devices(device)
    dtype = dtype or (torch.float16 if devices[0].type == "cuda" else torch.float32)
    weights = read_svd(Path(checkpoint), Path(extension) if extension else None)
    unet, vae, image_encoder = build_svd(weights, backend)
    vae.to(devices[0], dtype)
    image_encoder.to(dtype)
    if not stream:
        return SVDPipeline(unet.to(devices[0], dtype), vae, image_encoder, devices=devices)
    source = WeightStream(blocks_of, is_locked=devices[0].type == "cuda")
    source.place(unet, devices[0], dtype)
    unet.offload_skip = HostTensor
    return SVDPipeline(unet, vae, image_encoder, devices=devices, stream=source)


def blocks_of(unet: SVDUNet) -> list[nn.Module]:
    """What the UNet calls one after the other: nearly all of its weights."""
    layers = [layer for block in (*unet.input_blocks, unet.middle_block, *unet.output_blocks) for layer in block]
    # an upsampling is small, and called piece by piece by the next
    return [layer for layer in layers if not isinstance(layer, Upsample)]


def build_svd(weights: SVDWeights, attention: Attention = sdpa) -> tuple[SVDUNet, VAE, ImageEncoder]:
    """The three networks over the given weights, uncopied, in evaluation mode."""
    source = " with ".join(weights.sources)
    with sized_by(source), torch.device("meta"):
        unet = SVDUNet(UNetConfig.from_shapes(shapes_of(weights.unet)), attention=attention)
        vae = VAE(VAEConfig.from_shapes(shapes_of(weights.vae)), quantised="quant_conv.weight" in weights.vae)
        image_encoder = ImageEncoder(ImageEncoderConfig.from_shapes(shapes_of(weights.image_encoder)))
    assign_weights(unet, weights.unet, source)
    assign_weights(vae, weights.vae, source)
    assign_weights(image_encoder.clip, weights.image_encoder, source)
    fill_buffers(image_encoder.clip)
    return unet.eval(), vae.eval(), image_encoder.eval()
