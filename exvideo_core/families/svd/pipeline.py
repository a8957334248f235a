"""Image to video: Stable Video Diffusion with ExVideo's extension (arXiv:2311.15127, arXiv:2406.14130).

Shapes: T frames, C channels, H and W pixels, h and w latent cells of 8x8 pixels, D channels of the embedding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import ClipError
from ...nn.attention import Attention, sdpa
from ...nn.convolution import lay_out_weights
from ...nn.nan_check import checked
from ...nn.step_cache import Branch, Reuse, StepCache
from ...progress import Progress
from ...runtime import oom_hints
from ...runtime.decoded_frames import DecodedFrames
from ...runtime.guidance_branches import Branches
from ...runtime.memory import chunk_bytes_on, free_bytes, on_own_device, temporarily_on
from ...runtime.resume import Resume
from ...runtime.weight_streaming import WeightStream
from ...sampling import inputs
from ...sampling.denoisers import Denoiser, pin_frames, v_prediction
from ...sampling.guidance import frame_guidance
from ...sampling.inputs import Devices, OutputType, Picture, SeededNoise
from ...sampling.levels import Levels
from ...sampling.postprocess import finish
from ...sampling.run import guided_velocity, sample
from ...sampling.samplers import Callback
from ...video.frames import cover_crop, pixels_to_frames, to_pixels
from ...weights.assign import assign_weights, shapes_of, sized_by
from .checkpoint import SVDWeights, read_svd
from .conditioning import Conditioning, condition
from .config import ImageEncoderConfig, UNetConfig, VAEConfig
from .defaults import PLAIN, extended_defaults
from .geometry import GEOMETRY
from .image_encoder import ImageEncoder, fill_buffers
from .lazy_frames import HostTensor
from .methods import METHODS
from .unet import SVDUNet, blocks_of
from .vae import LARGEST_TILE, SCALING_FACTOR, VAE


@dataclass(frozen=True, kw_only=True)
class SVDResult:
    """A finished clip, in float32 on the CPU."""

    frames: Tensor  # [T, H, W, 3] in [0, 1]; [0, H, W, 3] if only latents were asked for
    latents: Tensor  # [T, 4, h, w], what was decoded, in the UNet's scale (after normalising and contrast)


class SVDPipeline:
    """The UNet, the autoencoder and the image encoder; a call makes a clip.

    Args:
        image_encoder: on the CPU, and temporarily on the device while it computes.
        devices: one for both branches of guidance, or one for each; if empty, the UNet's.
        stream: where the UNet's weights come from, block by block; None if all are on the device.
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
        unet.chunk_bytes = vae.chunk_bytes = chunk_bytes_on(*(devices or [self.device]))
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
    @on_own_device
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
        output_type: OutputType = "frames",
        resume: Resume = None,
    ) -> SVDResult:
        """Make a clip.

        Args:
            image: the first frame; resized to cover width x height and cropped.
            num_frames: T; the extension's length, or 25 without one.
            height, width: in pixels, multiples of 8, at least 128.
            fps: frames a second that the network is conditioned on; 30, or 7 without an extension.
            motion_bucket_id: amount of motion, 0 to 255.
            noise_aug_strength: noise on the conditioning picture; with more, the clip may differ more from it.
            num_inference_steps: model calls; `denoise` does not change their number.
            min_guidance_scale: guidance of the first frame; 2, or 1 without an extension.
            max_guidance_scale: guidance of the last frame; 2, or 3 without an extension. Both 1: half the time.
            normalize: give all frames the mean and spread of the clip; on with an extension.
            contrast: factor on the latents; 1.2, or 1 without an extension.
            denoise: above 0, at most 1; how far `init_video` is changed.
            init_video: T pictures to start from.
            keyframes: pictures to hold frames to, by index.
            encode_scale: of `init_video` and `keyframes`; DiffSynth-Studio 1.1.9's is 0.13025, which greys them.
            seed: of the noise, unless `latents` and `image_noise` are given.
            latents: unit noise [T, 4, h, w].
            image_noise: unit noise [1, 3, H, W].
            method: a name in `METHODS`; docs/approximations.md compares them.
            reuse: when a step may be predicted from earlier ones: faster, not exact. None computes all.
            callback: called after each step with (step, steps, denoised latents); may raise to stop.
            decode_progress: called after each decoded window with (done, all).
            output_type: frames, or latents to leave them to `decode`, which needs no memory for the whole clip.
            resume: file for the state of the run, or a `SavedRun`. A call with the same arguments resumes after the
                step that was saved. Delete the file when the video is saved.
        """
        way = inputs.named("method", method, METHODS)
        given: dict[str, Any] = {
            "num_frames": num_frames,
            "fps": fps,
            "min_guidance_scale": min_guidance_scale,
            "max_guidance_scale": max_guidance_scale,
            "normalize": normalize,
            "contrast": contrast,
        }
        chosen = replace(self.defaults, **{name: value for name, value in given.items() if value is not None})
        GEOMETRY.check_size(width, height)
        GEOMETRY.check_frames(chosen.num_frames, self.extension_frames)
        inputs.check_init_video(init_video, chosen.num_frames, denoise)
        if outside := [index for index in keyframes or {} if not 0 <= index < chosen.num_frames]:
            last = chosen.num_frames - 1
            raise ClipError(f"keyframe {outside[0]} is outside of the clip: its frames are 0 to {last}.")
        frames, *cells = GEOMETRY.latent_shape(chosen.num_frames, height, width)
        draw = SeededNoise((frames, self.vae.config.latent_channels, *cells), seed)
        noise = inputs.given_or_drawn("latents", latents, draw).to(self.device, torch.float32)
        with temporarily_on(self.image_encoder, self.device, free_bytes(self.device)):
            conditioning = condition(
                self._pixels(image, width, height),
                self.vae.encode,
                self.image_encoder,
                fps=chosen.fps,
                motion_bucket_id=motion_bucket_id,
                noise_aug_strength=noise_aug_strength,
                image_noise=inputs.given_or_drawn("image_noise", image_noise, SeededNoise((1, 3, height, width), seed)),
            )
        clean = self._encode(init_video, width, height) * encode_scale if init_video else None
        held = keyframes or {}
        pinned = {index: self._encode([held[index]], width, height)[0] * encode_scale for index in held}
        scale_T111 = frame_guidance(frames, chosen.min_guidance_scale, chosen.max_guidance_scale)
        is_guided = bool((scale_T111 != 1).any())
        levels = Levels.from_sigmas(way.schedule(num_inference_steps, denoise).to(self.device))

        def denoiser_of(unets: Branches, cache: StepCache | None) -> Denoiser:
            guidance = scale_T111.to(self.device) if is_guided else None
            return pin_frames(self._denoiser(unets, conditioning, guidance, cache), pinned, noise)

        settings: dict[str, Any] = {"conditioning": conditioning, "guidance": scale_T111}
        if pinned:
            settings |= {"keyframes": pinned, "noise": noise}
        result = sample(
            self.unet,
            way,
            levels.start(noise, clean),
            levels,
            denoiser_of,
            devices=(self.devices or [self.device])[: 1 + is_guided],
            stream=self.stream,
            reuse=reuse,
            resume=resume,
            callback=callback,
            draw=draw,
            settings=settings,
        )
        latents_TCHW = finish(result, normalize=chosen.normalize, contrast=chosen.contrast).float()
        decoded = self.decode(latents_TCHW, decode_progress)
        frames_THWC = torch.empty(0, height, width, 3) if output_type == "latents" else decoded.whole()
        return SVDResult(frames=frames_THWC, latents=latents_TCHW.cpu())

    def _denoiser(
        self, unets: Branches, on: Conditioning, guidance_T111: Tensor | None, cache: StepCache | None
    ) -> Denoiser:
        # the uncond branch gets zeros for the picture, but the same ids
        cond, uncond = (
            [t.to(device) for t in (strength * on.image_latents, strength * on.embedding, on.ids)]
            for strength, device in zip((1.0, 0.0), unets.devices, strict=True)
        )
        return v_prediction(guided_velocity(unets, self._predict, cond, uncond, lambda _: guidance_T111, cache))

    def _predict(
        self, unet: nn.Module, memory: Branch | None, x_TCHW: Tensor, timestep: Tensor, *conditioning: Tensor
    ) -> Tensor:
        picture_1CHW, embedding, ids = conditioning
        x_TCHW = torch.cat([x_TCHW, picture_1CHW.expand(len(x_TCHW), -1, -1, -1)], dim=1).to(self.dtype)
        compute = partial(unet, x_TCHW, timestep, embedding, ids)
        given = {"the noisy latents": x_TCHW, "the picture's embedding": embedding}
        return checked(compute(memory=memory), unet, compute, given).float()

    def decode(self, latents_TCHW: Tensor, progress: Progress | None = None) -> DecodedFrames:
        """Frames of latents in the UNet's scale, such as `result.latents`, which are decoded while they are read.

        `progress` is called after each decoded window with (done, all).
        """
        raw_TCHW = latents_TCHW.to(self.device, torch.float32) / SCALING_FACTOR
        side = min(max(raw_TCHW.shape[-2:]), LARGEST_TILE)

        def spans(tile: int | None) -> Iterator[Tensor]:
            return self.vae.decode_spans(raw_TCHW, progress, tile, pixels_to_frames)

        return DecodedFrames(len(raw_TCHW), spans, side, self.device)

    def _encode(self, pictures: Sequence[Picture], width: int, height: int) -> Tensor:
        """Raw latents [N, 4, h, w] of pictures."""
        pixels = torch.stack([to_pixels(cover_crop(picture, width, height)).cpu() for picture in pictures])
        return self.vae.encode(pixels).float().to(self.device)

    def _pixels(self, picture: Picture, width: int, height: int) -> Tensor:
        return to_pixels(cover_crop(picture, width, height)).to(self.device)


@oom_hints.loading
def load_svd(
    checkpoint: str | Path,
    extension: str | Path | None = None,
    dtype: torch.dtype | None = None,
    device: Devices = None,
    attention: str = "auto",
    stream: bool = False,
) -> SVDPipeline:
    """Load Stable Video Diffusion, with ExVideo's extension over it.

    Args:
        checkpoint: a file like svd_xt.safetensors, or a folder in diffusers' layout.
        extension: a file like ExVideo-SVD-128f-v1's model.fp16.safetensors, of any length; None is plain SVD.
        dtype: of the networks; float16 on CUDA, else float32.
        device: CUDA if there is one. With two, such as "cuda:0,cuda:1", each computes a branch of guidance with its
            own copy of the UNet; the other networks are on the first.
        attention: a name in `exvideo_core.nn.attention.BACKENDS`; auto chooses an exact one for the device.
        stream: offload the UNet to main memory, and its skips while sampling, for a small GPU.
    """
    backend, devices = inputs.attention_named(attention), inputs.chosen_devices(device)
    dtype = dtype or (torch.float16 if devices[0].type == "cuda" else torch.float32)
    weights = read_svd(Path(checkpoint), Path(extension) if extension else None)
    unet, vae, image_encoder = build_svd(weights, backend)
    lay_out_weights(vae.to(devices[0], dtype))
    image_encoder.to(dtype)
    if not stream:
        lay_out_weights(unet.to(devices[0], dtype))
        return SVDPipeline(unet, vae, image_encoder, devices=devices)
    source = WeightStream(blocks_of, is_locked=devices[0].type == "cuda")
    source.place(unet, devices[0], dtype)
    unet.offload_skip = HostTensor
    return SVDPipeline(unet, vae, image_encoder, devices=devices, stream=source)


def build_svd(weights: SVDWeights, attention: Attention = sdpa) -> tuple[SVDUNet, VAE, ImageEncoder]:
    """Build the three networks on the given weights, without a copy, in eval mode."""
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
