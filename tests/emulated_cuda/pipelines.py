"""The product's pipelines on an emulated card, loaded as a user loads them, at the published sizes or narrow ones."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from PIL import Image
from torch import Tensor, nn

from exvideo_core import CogVideoXPipeline, SVDPipeline, load_cogvideox, load_svd
from exvideo_core.families.cogvideox import pipeline as cogvideox
from exvideo_core.families.cogvideox.checkpoint import PartWeights
from exvideo_core.families.cogvideox.config import TransformerConfig, VAEConfig as CogVAEConfig
from exvideo_core.families.cogvideox.text_encoder import TextEncoderConfig, build_t5
from exvideo_core.families.cogvideox.transformer import CogVideoXTransformer
from exvideo_core.families.cogvideox.vae import CogVideoXVAE
from exvideo_core.families.svd import lazy_frames, pipeline as svd
from exvideo_core.families.svd.checkpoint import SVDWeights
from exvideo_core.families.svd.config import ImageEncoderConfig, UNetConfig, VAEConfig
from exvideo_core.families.svd.image_encoder import build_clip
from exvideo_core.families.svd.unet import SVDUNet
from exvideo_core.families.svd.vae import VAE
from exvideo_core.nn.attention import choice
from exvideo_core.runtime import guidance_branches

from .costs import Costs
from .device import EmulatedCuda
from .patches import emulate_buffers, placed

PICTURE = Image.new("RGB", (640, 480), (200, 100, 50))
EXTENSION_FRAMES = 128
UNGUIDED = {"min_guidance_scale": 1.0, "max_guidance_scale": 1.0}  # SVD without its uncond branch: half the calls
HALF, BRAIN = torch.float16, torch.bfloat16


class _Inline:
    """A pool of threads that computes at once: the emulation belongs to one thread."""

    def __init__(self, *_: object) -> None:
        pass

    def __enter__(self) -> _Inline:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, call: Callable[..., Any], *args: Any) -> Any:
        result = call(*args)
        return type("Done", (), {"result": staticmethod(lambda: result)})


@contextmanager
def fresh() -> Iterator[None]:
    """Nothing is remembered of a device that was there before, and all is computed in this thread."""
    # what transformers finds out while it is imported is about this machine, not about an emulated card
    importlib.import_module("transformers.models.clip.modeling_clip")
    importlib.import_module("transformers.models.t5.modeling_t5")
    for module in (choice, lazy_frames):
        for value in vars(module).values():
            if hasattr(value, "cache_clear"):
                value.cache_clear()
    with patch.object(guidance_branches, "ThreadPoolExecutor", _Inline):
        yield


# loading


def _weights(cuda: EmulatedCuda, build: Callable[[], nn.Module], dtype: torch.dtype) -> dict[str, Tensor]:
    """What a file has: tensors in main memory."""
    return dict(placed(cuda, build, dtype, "cpu").state_dict())


def loaded_svd(
    cuda: EmulatedCuda,
    *,
    unet: UNetConfig | None = None,
    vae: VAEConfig | None = None,
    image_encoder: ImageEncoderConfig | None = None,
    **options: Any,
) -> SVDPipeline:
    """`load_svd` of files in these sizes; the published ones with ExVideo's extension, if none are given."""
    sizes = unet or UNetConfig(extension_frames=EXTENSION_FRAMES)
    weights = SVDWeights(
        unet=_weights(cuda, lambda: SVDUNet(sizes), HALF),
        vae=_weights(cuda, lambda: VAE(vae or VAEConfig()), HALF),
        image_encoder=_weights(cuda, lambda: build_clip(image_encoder or ImageEncoderConfig()), HALF),
        extension_frames=sizes.extension_frames,
        sources=("svd_xt.safetensors",),
    )
    with patch.object(svd, "read_svd", lambda *_: weights):
        pipe = load_svd("svd_xt.safetensors", **{"device": "cuda:0", **options})
    emulate_buffers(cuda, pipe.image_encoder, "cpu")
    return pipe


def loaded_cogvideox(
    cuda: EmulatedCuda,
    *,
    transformer: TransformerConfig | None = None,
    vae: CogVAEConfig | None = None,
    text_sizes: TextEncoderConfig | None = None,
    **options: Any,
) -> CogVideoXPipeline:
    """`load_cogvideox` of files in these sizes; the published ones if none are given."""

    def part(build: Callable[[], nn.Module], dtype: torch.dtype = BRAIN) -> Callable[[Path], PartWeights]:
        return lambda path: PartWeights(weights=_weights(cuda, build, dtype), source=path.name)

    readers = {
        "read_transformer": part(lambda: CogVideoXTransformer(transformer or TransformerConfig())),
        "read_vae": part(lambda: CogVideoXVAE(vae or CogVAEConfig())),
        "read_text_encoder": part(lambda: build_t5(text_sizes or TextEncoderConfig()), HALF),
    }
    with ExitStack() as stack:
        for name, reader in readers.items():
            stack.enter_context(patch.object(cogvideox, name, reader))
        return load_cogvideox("transformer", vae="vae", **{"device": "cuda:0", **options})


def prompts(cuda: EmulatedCuda, pipe: CogVideoXPipeline) -> dict[str, Tensor]:
    """Embeddings in place of sentences, for a pipeline without a text encoder."""
    meta = torch.empty(1, 226, pipe.transformer.config.text_dim, dtype=pipe.dtype, device="meta")
    return {name: cuda.weight(meta, pipe.device) for name in ("prompt_embeds", "negative_prompt_embeds")}


# a clip


class Marks:
    """The costs at each step of a clip, as its callback."""

    def __init__(self, cuda: EmulatedCuda) -> None:
        self.cuda = cuda
        self.costs = [cuda.costs.copy()]

    def __call__(self, *_: object) -> None:
        self.costs.append(self.cuda.costs.copy())

    def of(self, index: int) -> Costs:
        """What lies between a mark and the one before."""
        before = self.costs[index - 1]
        return self.costs[index].since(before)


def svd_clip(cuda: EmulatedCuda, pipe: SVDPipeline, *, frames: int, size: int, steps: int = 2, **options: Any) -> Marks:
    """Make a clip; the last mark is after decoding."""
    marks = Marks(cuda)
    result = pipe(
        PICTURE, num_frames=frames, height=size, width=size, num_inference_steps=steps, callback=marks, **options
    )
    marks()
    decoded = 0 if options.get("output_type") == "latents" else frames
    assert tuple(result.frames.shape) == (decoded, size, size, 3)
    assert (result.frames.dtype, result.frames.device.type) == (torch.float32, "cpu")
    return marks


def cogvideox_clip(
    cuda: EmulatedCuda,
    pipe: CogVideoXPipeline,
    *,
    frames: int = 129,
    height: int = 480,
    width: int = 720,
    steps: int = 2,
    **options: Any,
) -> Marks:
    """Make a clip; the last mark is after decoding."""
    marks = Marks(cuda)
    texts = {"prompt": "a boat"} if pipe.text_encoder else prompts(cuda, pipe)
    result = pipe(
        **texts, num_frames=frames, height=height, width=width, num_inference_steps=steps, callback=marks, **options
    )
    marks()
    decoded = 0 if options.get("output_type") == "latents" else frames
    assert tuple(result.frames.shape) == (decoded, height, width, 3)
    assert (result.frames.dtype, result.frames.device.type) == (torch.float32, "cpu")
    return marks


# one call of a network


def call_unet(cuda: EmulatedCuda, unet: SVDUNet, *, frames: int, cells: int) -> Costs:
    """One forward pass over frames of so many cells a side."""
    dtype, context_dim = next(unet.parameters()).dtype, unet.config.context_dim
    before = cuda.costs.copy()
    with torch.inference_mode():
        x_TCHW = torch.empty(frames, unet.config.in_channels, cells, cells, dtype=dtype, device="cuda")
        context, ids = torch.ones(1, context_dim, dtype=dtype, device="cuda"), torch.ones(1, 3, device="cuda")
        out_TCHW = unet(x_TCHW, torch.ones(1, device="cuda"), context, ids)
    assert (out_TCHW.dtype, tuple(out_TCHW.shape)) == (dtype, (frames, 4, cells, cells))
    return cuda.costs.since(before)


def call_transformer(
    cuda: EmulatedCuda, transformer: CogVideoXTransformer, *, frames: int, height: int, width: int
) -> Costs:
    """One forward pass over latent frames of height x width cells."""
    dtype, text_dim = next(transformer.parameters()).dtype, transformer.config.text_dim
    before = cuda.costs.copy()
    with torch.inference_mode():
        x_BCTHW = torch.empty(1, 16, frames, height, width, dtype=dtype, device="cuda")
        transformer(x_BCTHW, torch.tensor(999), torch.empty(1, 226, text_dim, dtype=dtype, device="cuda"))
    return cuda.costs.since(before)


def decode(cuda: EmulatedCuda, vae: VAE | CogVideoXVAE, *latent_shape: int) -> Costs:
    """Decode latents that are on the card."""
    before = cuda.costs.copy()
    with torch.inference_mode():
        vae.decode(torch.empty(latent_shape, device="cuda"))
    return cuda.costs.since(before)


def is_orderly(cuda: EmulatedCuda) -> bool:
    """Whether no path did what none may: races, tensors of two cards in one kernel, copies that only look asynchronous.

    Says what there was, for a test that fails.
    """
    wrong = [*cuda.races.seen.items(), *cuda.costs.mixed.items(), *cuda.costs.pageable.items()]
    if too_large := cuda.costs.convolutions["too large"]:
        wrong.append(("convolutions of more than 2**31 elements", too_large))
    for what, times in wrong:
        print(f"{what}: {times} times")
    return not wrong
