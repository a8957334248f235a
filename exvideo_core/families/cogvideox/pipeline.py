"""Text to video: CogVideoX-5B, with ExVideo's LoRA for 129 frames (arXiv:2408.06072, arXiv:2406.14130).

Shapes: B = 1 clip, C channels, F frames, T latent frames, H and W pixels, h and w latent cells of 8x8 pixels,
L text tokens, D channels of the text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn

from ...errors import ExVideoError
from ...nn.attention import Attention, sdpa
from ...nn.nan_check import check_given, checked
from ...nn.step_cache import Branch, Reuse, StepCache
from ...progress import Progress
from ...runtime import oom_hints
from ...runtime.decoded_frames import DecodedFrames
from ...runtime.guidance_branches import Branches
from ...runtime.memory import chunk_bytes_on, free_bytes, on_own_device, temporarily_on
from ...runtime.resume import Resume
from ...runtime.weight_streaming import WeightStream
from ...sampling import inputs
from ...sampling.denoisers import Denoiser, zero_snr_v_prediction
from ...sampling.inputs import Devices, OutputType, Picture, SeededNoise
from ...sampling.levels import Levels
from ...sampling.postprocess import finish
from ...sampling.run import guided_velocity, sample
from ...sampling.samplers import Callback
from ...sampling.schedules import alpha_levels
from ...video.frames import cover_crop, to_pixels
from ...weights.assign import assign_weights, shapes_of, sized_by
from . import detect
from .checkpoint import PartWeights, read_text_encoder, read_transformer, read_vae
from .config import TransformerConfig, VAEConfig
from .geometry import GEOMETRY
from .methods import METHODS, check_steps
from .text_encoder import TextEncoder, TextEncoderConfig, Tokenizer, build_t5
from .transformer import CogVideoXTransformer, blocks_of
from .vae import SCALING_FACTOR, CogVideoXVAE, frames_of_clip


@dataclass(frozen=True, kw_only=True)
class CogVideoXResult:
    """A finished clip, in float32 on the CPU."""

    frames: Tensor  # [F, H, W, 3] in [0, 1]; [0, H, W, 3] if only latents were asked for
    latents: Tensor  # [1, 16, T, h, w], what was decoded, in the transformer's scale


class CogVideoXPipeline:
    """The transformer, the autoencoder and the text encoder; a call makes a clip.

    Args:
        text_encoder: prompts to [B, L, D]; on the CPU, and temporarily on the device while it computes. None if prompts
            come as embeddings.
        devices: one for both branches of guidance, or one for each; if empty, the transformer's.
        stream: where the transformer's weights come from, block by block; None if all are on the device.
    """

    def __init__(
        self,
        transformer: CogVideoXTransformer,
        vae: CogVideoXVAE,
        text_encoder: TextEncoder | None = None,
        *,
        devices: Sequence[torch.device] = (),
        stream: WeightStream | None = None,
    ) -> None:
        self.transformer, self.vae, self.text_encoder = transformer, vae, text_encoder
        self.devices, self.stream = devices, stream
        transformer.chunk_bytes = vae.chunk_bytes = chunk_bytes_on(*(devices or [self.device]))

    @property
    def device(self) -> torch.device:
        return self.devices[0] if self.devices else next(self.transformer.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.transformer.parameters()).dtype

    @torch.inference_mode()
    @oom_hints.sampling
    @on_own_device
    def __call__(  # noqa: PLR0913  every one is a setting that users know
        self,
        prompt: str | None = None,
        *,
        negative_prompt: str = "",
        num_frames: int = 129,
        height: int = 480,
        width: int = 720,
        guidance_scale: float | Sequence[float] = 7.0,
        num_inference_steps: int = 50,
        denoise: float = 1.0,
        init_video: Sequence[Picture] | None = None,
        seed: int = 0,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        method: str = "ddim",
        reuse: Reuse | None = None,
        callback: Callback | None = None,
        decode_progress: Progress | None = None,
        decode_tile: int | None = None,
        output_type: OutputType = "frames",
        resume: Resume = None,
    ) -> CogVideoXResult:
        """Make a clip.

        Args:
            prompt: what to show; not needed with `prompt_embeds`.
            negative_prompt: what to avoid.
            num_frames: F, 8 k + 1.
            height, width: in pixels, multiples of 16.
            guidance_scale: how closely to follow the prompt, one for all steps or one for each; 1 ignores the negative
                prompt and takes half the time. See `sampling.rising_guidance`.
            num_inference_steps: model calls (pairs of them, with guidance); `denoise` does not change their number.
            denoise: above 0, at most 1; how much `init_video` is changed.
            init_video: F pictures to start from; at `denoise` 1 they are not used.
            seed: of the noise.
            latents: unit noise [1, 16, T, h, w] to start from instead of the seed's.
            prompt_embeds, negative_prompt_embeds: [1, L, D] instead of the prompts.
            method: a name in `METHODS`.
            reuse: when a step may be predicted from earlier ones: faster, not exact. None computes all.
            callback: called after each step with (step, steps, denoised latents); may raise to stop.
            decode_progress: called after each decoded chunk with (done, all).
            decode_tile: side of the tiles to decode in, in latent cells, to save memory; None is exact.
            output_type: frames, or latents to leave them to `decode`, which needs no memory for the whole clip.
            resume: file for the state of the run, or a `SavedRun`. A call with the same arguments resumes after the
                step that was saved. Delete the file when the video is saved.

        Raises:
            ClipError: frames, size or steps that the model cannot make.
            NumberError: NaN or Inf came up; says in which step and layer, and what to do.
            ExVideoError: a prompt or its encoder is missing, or the transformer is the image-to-video one.
        """
        config = self.transformer.config
        if config.in_channels != config.out_channels:
            raise ExVideoError(f"this transformer is CogVideoX's image-to-video one; {detect.IMAGE_TO_VIDEO.where}.")
        GEOMETRY.check_size(width, height)
        GEOMETRY.check_frames(num_frames)
        check_steps(num_inference_steps, denoise)
        inputs.check_init_video(init_video, num_frames, denoise)
        way = inputs.named("method", method, METHODS)
        timesteps = way.schedule(num_inference_steps, denoise)
        scales = _scale_of_each(timesteps, guidance_scale)
        is_guided = any(scale != 1 for scale in scales.values())
        shape = 1, self.vae.config.latent_channels, *GEOMETRY.latent_shape(num_frames, height, width)
        draw = SeededNoise(shape, seed)
        noise = inputs.given_or_drawn("latents", latents, draw).to(self.device, torch.float32)
        texts = [(prompt, prompt_embeds), *([(negative_prompt, negative_prompt_embeds)] if is_guided else [])]
        contexts = self._contexts(texts)
        levels = Levels.from_alphas(alpha_levels(timesteps))
        clean = self._encode_video(init_video, width, height) if init_video and denoise < 1 else None
        result = sample(
            self.transformer,
            way,
            levels.start(noise, clean),
            levels,
            partial(self._denoiser, contexts, scales),
            devices=(self.devices or [self.device])[: 1 + is_guided],
            stream=self.stream,
            reuse=reuse,
            resume=resume,
            callback=callback,
            draw=draw,
            settings={"contexts": contexts, "guidance": scales, "seed": seed},
        )
        latents_BCTHW = finish(result).float()
        decoded = self.decode(latents_BCTHW, decode_progress, decode_tile)
        frames_FHWC = torch.empty(0, height, width, 3) if output_type == "latents" else decoded.whole()
        return CogVideoXResult(frames=frames_FHWC, latents=latents_BCTHW.cpu())

    def _contexts(self, texts: Sequence[tuple[str | None, Tensor | None]]) -> list[Tensor]:
        """Embeddings [1, L, D] of (prompt, embedding): the embedding if it is given."""
        prompts = [prompt for prompt, embedding in texts if embedding is None]
        if None in prompts:
            raise ExVideoError("there is no prompt: give one, or prompt_embeds.")
        encoded = iter(self._encode_text([prompt or "" for prompt in prompts]) if prompts else ())
        contexts = [next(encoded)[None] if embedding is None else embedding for _, embedding in texts]
        width = self.transformer.config.text_dim
        for context in contexts:
            if context.ndim != 3 or len(context) != 1 or context.shape[2] != width:
                raise ValueError(f"an embedding has the shape {list(context.shape)}; [1, tokens, {width}] is needed")
            check_given({"the prompt's embedding": context})
        return [context.to(self.device, self.dtype) for context in contexts]

    def _encode_text(self, prompts: Sequence[str]) -> Tensor:
        if self.text_encoder is None:
            raise ExVideoError(
                "no text encoder is loaded: load one, or give prompt_embeds, and negative_prompt_embeds unless "
                "guidance_scale is 1."
            )
        with temporarily_on(self.text_encoder, self.device, free_bytes(self.device)):
            return self.text_encoder(prompts)

    def _encode_video(self, init_video: Sequence[Picture], width: int, height: int) -> Tensor:
        frames = [to_pixels(cover_crop(picture, width, height)) for picture in init_video]
        video_BCFHW = rearrange(frames, "F C H W -> 1 C F H W")
        return self.vae.encode(video_BCFHW).to(self.device, torch.float32) * SCALING_FACTOR

    def _denoiser(
        self,
        contexts: Sequence[Tensor],
        scales: Mapping[int, float],
        transformers: Branches,
        cache: StepCache | None,
    ) -> Denoiser:
        """Predict with the first context, guided away from the second one by the timestep's scale."""
        cond, *uncond = (c.to(device) for c, device in zip(contexts, transformers.devices, strict=False))

        def scale_at(timestep: Tensor) -> float | None:
            scale = scales[int(timestep)]
            return None if scale == 1 else scale

        return zero_snr_v_prediction(guided_velocity(transformers, self._predict, [cond], uncond, scale_at, cache))

    def _predict(
        self, transformer: nn.Module, memory: Branch | None, x_BCTHW: Tensor, timestep: Tensor, context_BLD: Tensor
    ) -> Tensor:
        compute = partial(transformer, x_BCTHW.to(self.dtype), timestep, context_BLD)
        given = {"the noisy latents": x_BCTHW, "the prompt's embedding": context_BLD}
        return checked(compute(memory=memory), transformer, compute, given).float()

    def decode(self, latents_BCTHW: Tensor, progress: Progress | None = None, tile: int | None = None) -> DecodedFrames:
        """Frames of latents in the transformer's scale, such as `result.latents`, decoded while they are read.

        Args:
            latents_BCTHW: [1, 16, T, h, w].
            progress: called after each decoded chunk with (done, all).
            tile: side of the tiles to decode in, in latent cells, to save memory; None is exact.
        """
        raw_BCTHW = latents_BCTHW.to(self.device, torch.float32) / SCALING_FACTOR

        def spans(smaller: int | None) -> Iterator[Tensor]:
            return self.vae.decode_spans(raw_BCTHW, progress, smaller or tile, frames_of_clip)

        count = GEOMETRY.frames_of(raw_BCTHW.shape[2])
        return DecodedFrames(count, spans, tile or max(raw_BCTHW.shape[-2:]), self.device)


def _scale_of_each(timesteps: Tensor, scale: float | Sequence[float]) -> dict[int, float]:
    """Guidance scale by timestep."""
    scales = list(scale) if isinstance(scale, Sequence) else [scale] * len(timesteps)
    if len(scales) != len(timesteps):
        raise ValueError(f"guidance_scale has {len(scales)} values for {len(timesteps)} steps")
    return dict(zip(timesteps.tolist(), scales, strict=True))


@oom_hints.loading
def load_cogvideox(
    transformer: str | Path,
    *,
    vae: str | Path,
    text_encoder: str | Path | None = None,
    dtype: torch.dtype | None = None,
    device: Devices = None,
    attention: str = "auto",
    stream: bool = False,
) -> CogVideoXPipeline:
    """Load CogVideoX; `apply_lora` then extends it with ExVideo's LoRA.

    Args:
        transformer: a file, shards, the part's folder, or diffusers' folder of the whole model. So are the others.
        text_encoder: T5 v1.1 XXL; None if prompts come as embeddings. It stays on the CPU.
        dtype: of the networks; bfloat16 on CUDA (float16 on cards that only emulate it), else float32.
        device: CUDA if there is one. With two, such as "cuda:0,cuda:1", each computes a branch of guidance with its
            own copy of the transformer; the other networks are on the first.
        attention: a name in `exvideo_core.nn.attention.BACKENDS`; auto chooses an exact one for the device.
        stream: offload the transformer to main memory, for a GPU that is too small for it.

    Raises:
        CheckpointError: a file is damaged or of another kind.
        ExVideoError: a device or the attention cannot be used.
    """
    backend, devices = inputs.attention_named(attention), inputs.chosen_devices(device)
    dtype = dtype or default_dtype(devices[0])
    parts = read_transformer(Path(transformer)), read_vae(Path(vae))
    encoder = build_text_encoder(read_text_encoder(Path(text_encoder))).to(dtype) if text_encoder else None
    network, decoder = build_transformer(parts[0], backend), build_vae(parts[1]).to(devices[0], dtype)
    if not stream:
        return CogVideoXPipeline(network.to(devices[0], dtype), decoder, encoder, devices=devices)
    source = WeightStream(blocks_of, is_locked=devices[0].type == "cuda")
    source.place(network, devices[0], dtype)
    return CogVideoXPipeline(network, decoder, encoder, devices=devices, stream=source)


def default_dtype(device: torch.device) -> torch.dtype:
    """The dtype that CogVideoX was published in, or what stands in for it on a device that has no products in it."""
    if device.type != "cuda":
        return torch.float32
    with torch.cuda.device(device):  # before Ampere, cuDNN has no convolution in bfloat16
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def build_transformer(part: PartWeights, attention: Attention = sdpa) -> CogVideoXTransformer:
    """Build a transformer on the given weights, without a copy, in eval mode."""
    with sized_by(part.source), torch.device("meta"):
        transformer = CogVideoXTransformer(TransformerConfig.from_shapes(shapes_of(part.weights)), attention=attention)
    assign_weights(transformer, part.weights, part.source)
    return transformer.eval()


def build_vae(part: PartWeights) -> CogVideoXVAE:
    """Build an autoencoder on the given weights, without a copy, in eval mode."""
    with sized_by(part.source), torch.device("meta"):
        vae = CogVideoXVAE(VAEConfig.from_shapes(shapes_of(part.weights)))
    assign_weights(vae, part.weights, part.source)
    return vae.eval()


def build_text_encoder(part: PartWeights) -> TextEncoder:
    """Build a text encoder on the given weights, without a copy, in eval mode."""
    with sized_by(part.source), torch.device("meta"):
        t5 = build_t5(TextEncoderConfig.from_shapes(shapes_of(part.weights)))
    assign_weights(t5, part.weights, part.source)
    return TextEncoder(t5, Tokenizer()).eval()
