"""Work of the core, on networks as small as they can be and still have every part, that faults are put into."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import narrow_cogvideox
import narrow_svd
import torch
from narrow_svd import noise
from torch import Tensor, nn

from exvideo_core import CogVideoXPipeline, SVDPipeline, load_cogvideox, load_svd
from exvideo_core.families.cogvideox import pipeline as cogvideox
from exvideo_core.families.svd import pipeline as svd
from exvideo_core.families.svd.lazy_frames import HostTensor
from exvideo_core.lora import LoRA, attach, merge, new_lora, remove_loras
from exvideo_core.nn import out_of_memory
from exvideo_core.nn.fp8 import store_in_fp8
from exvideo_core.nn.step_cache import Reuse
from exvideo_core.runtime import oom_hints as advice
from exvideo_core.runtime.guidance_branches import branches
from exvideo_core.runtime.weight_streaming import WeightStream

from .no_memory import Subject

CPU = torch.device("cpu")
PICTURE = torch.rand(128, 128, 3, generator=torch.Generator().manual_seed(0))
TWO_LEVELS = replace(narrow_svd.TINY, unet=replace(narrow_svd.TINY.unet, widths=(8, 8), blocks_per_level=1))
TEXTS = {"prompt_embeds": noise(1, 4, 8, seed=1), "negative_prompt_embeds": noise(1, 4, 8, seed=2)}


# whole clips


def svd_pipeline(*, is_streamed: bool = False) -> SVDPipeline:
    """Of two levels; with its weights in main memory, and its skips, where asked."""
    pipe = narrow_svd.build_pipeline(TWO_LEVELS, extension_frames=8)
    if is_streamed:
        pipe.stream = WeightStream(svd.blocks_of, is_locked=False)
        pipe.stream.place(pipe.unet, CPU, torch.float32)
        pipe.unet.offload_skip = HostTensor
    return pipe


def svd_clip(pipe: SVDPipeline, **settings: object) -> Sequence[Tensor]:
    """Frames and latents of a clip."""
    quick = {
        "num_frames": 2,
        "height": 128,
        "width": 128,
        "num_inference_steps": 2,
        "min_guidance_scale": 1.0,
        "max_guidance_scale": 1.0,
    }
    result = pipe(PICTURE, **(quick | settings))  # type: ignore[arg-type]
    return result.frames, result.latents


def svd_whole(*, is_streamed: bool = False, **settings: object) -> Subject:
    """A clip of two steps with guidance."""
    pipe = svd_pipeline(is_streamed=is_streamed)
    networks = (pipe.unet, pipe.vae, pipe.image_encoder)
    return Subject("SVD" + ", weights streamed" * is_streamed, lambda: svd_clip(pipe, **settings), networks)


def cog_pipeline(*, is_streamed: bool = False) -> CogVideoXPipeline:
    """Of two layers; with its weights in main memory where asked."""
    pipe = narrow_cogvideox.build_pipeline()
    if is_streamed:
        pipe.stream = WeightStream(cogvideox.blocks_of, is_locked=False)
        pipe.stream.place(pipe.transformer, CPU, torch.float32)
    return pipe


def cog_clip(pipe: CogVideoXPipeline, **settings: object) -> Sequence[Tensor]:
    """Frames and latents of a clip."""
    quick = {"num_frames": 9, "height": 32, "width": 32, "num_inference_steps": 2}
    result = pipe("a cat", **(quick | settings))  # type: ignore[arg-type]
    return result.frames, result.latents


def cog_whole(*, is_streamed: bool = False, **settings: object) -> Subject:
    """A clip of two steps with guidance, and its texts."""
    pipe = cog_pipeline(is_streamed=is_streamed)
    assert pipe.text_encoder is not None
    networks = (pipe.transformer, pipe.vae, pipe.text_encoder)
    return Subject("CogVideoX" + ", weights streamed" * is_streamed, lambda: cog_clip(pipe, **settings), networks)


def with_reuse() -> dict[str, object]:
    """Settings of a run of which a step is predicted."""
    return {"num_inference_steps": 5, "reuse": Reuse(threshold=0.99, first_steps=2)}


def svd_forward() -> Subject:
    """One prediction, as a run asks for it."""
    pipe = svd_pipeline()
    given = (noise(2, 4, 9, 9), torch.tensor(1.0), noise(1, 4, 9, 9), noise(1, 8), torch.tensor([[29.0, 127.0, 0.02]]))
    return _forward("SVD, one forward pass", pipe.unet, lambda unet: pipe._predict(unet, None, *given))


def cog_forward() -> Subject:
    """The same."""
    pipe = cog_pipeline()
    given = noise(1, 16, 3, 4, 4), torch.tensor([500]), noise(1, 4, 8)
    return _forward("CogVideoX, one forward pass", pipe.transformer, lambda net: pipe._predict(net, None, *given))


def _forward(where: str, network: nn.Module, predict: Callable[[nn.Module], Tensor]) -> Subject:
    @torch.inference_mode()
    @advice.sampling
    def work() -> Sequence[Tensor]:
        with branches(network, [CPU], None) as ready:
            return [ready.one(predict, ())]

    return Subject(where, work, (network,))


# autoencoders


@torch.inference_mode()
def svd_decoding(side: int = 4) -> Subject:
    """Two windows."""
    vae, latents = narrow_svd.build_vae(), noise(12, 4, side, side)
    return _coding("SVD, decoding", vae, lambda: [vae.decode(latents)], latents)


def svd_encoding() -> Subject:
    """Two frames."""
    vae, pixels = narrow_svd.build_vae(), noise(2, 3, 32, 32)
    return _coding("SVD, encoding", vae, lambda: [vae.encode(pixels)], pixels)


def cog_decoding() -> Subject:
    """Two pieces."""
    vae, latents = narrow_cogvideox.build_vae(), noise(1, 16, 5, 4, 4)
    return _coding("CogVideoX, decoding", vae, lambda: [vae.decode(latents)], latents)


def cog_encoding() -> Subject:
    """Two pieces."""
    vae, pixels = narrow_cogvideox.build_vae(), noise(1, 3, 17, 32, 32)
    return _coding("CogVideoX, encoding", vae, lambda: [vae.encode(pixels)], pixels)


def _coding(where: str, vae: nn.Module, work: object, *kept: Tensor) -> Subject:
    def told() -> Sequence[Tensor]:
        with torch.inference_mode(), out_of_memory.explained("it was computed", "Lower the size."):
            return work()  # type: ignore[operator,no-any-return]

    return Subject(where, told, (vae,), kept)


def in_cut_pieces(subject: Subject, chunk_bytes: int = 2**16, smallest: int = 2**12) -> Subject:
    """The same with pieces so small that smaller ones are cut elsewhere."""

    def work() -> Sequence[Tensor]:
        with patch.object(out_of_memory, "SMALLEST_CHUNK", smallest):
            return subject.work()

    for network in subject.networks:
        if hasattr(network, "chunk_bytes"):
            network.chunk_bytes = chunk_bytes
    return replace(subject, where=f"{subject.where}, small chunks", work=work, is_exact=False)


# devices that are too small


def svd_small_device() -> Subject:
    """Decoding of a picture that can be cut into tiles, on a device where operations may make little."""
    pipe = svd_pipeline()
    latents = noise(4, 4, 32, 32)
    work = torch.inference_mode()(lambda: [pipe.decode(latents).whole()])
    return in_cut_pieces(Subject("SVD, decoding", work, (pipe.vae,), (latents,), may_tile=True), 2**24, 2**18)


def cog_small_device() -> Subject:
    """The same."""
    pipe = cog_pipeline()
    latents = noise(1, 16, 2, 24, 24)
    work = torch.inference_mode()(lambda: [pipe.decode(latents).whole()])
    return in_cut_pieces(Subject("CogVideoX, decoding", work, (pipe.vae,), (latents,), may_tile=True), 2**24, 2**18)


# weights


def random_lora(module: nn.Module, seed: int = 0) -> LoRA:
    """A LoRA of all attentions."""
    lora = new_lora(module, rank=2, generator=torch.Generator().manual_seed(seed))
    pairs = {name: replace(pair, up=noise(*pair.up.shape, seed=seed)) for name, pair in lora.pairs.items()}
    return LoRA(pairs, source="lora.safetensors")


def _output(module: nn.Module) -> Tensor:
    with torch.inference_mode():
        return module(noise(1, 16, 1, 2, 2), torch.tensor([3]), noise(1, 4, 8))


def merging() -> Subject:
    """A second LoRA, into a transformer that has one already."""
    transformer = narrow_cogvideox.build_transformer()
    first, second = random_lora(transformer, 1), random_lora(transformer, 2)
    merge(transformer, first)

    attributes, weights = copy.copy(vars(transformer)), [each.data for each in transformer.parameters()]

    def work() -> Sequence[Tensor]:
        merge(transformer, second)
        results = [each.data for each in transformer.parameters()]
        for each, weight in zip(transformer.parameters(), weights, strict=True):  # the next attempt starts from here
            each.data = weight
        vars(transformer).update(attributes)
        return results

    return Subject("LoRA, merging", work, (transformer,), tuple(transformer.parameters()))


def removing() -> Subject:
    """Of a LoRA that is merged each time."""
    transformer = narrow_cogvideox.build_transformer()
    weights = {name: each.data for name, each in transformer.named_parameters()}
    lora = random_lora(transformer)

    def work() -> Sequence[Tensor]:
        merge(transformer, lora)
        remove_loras(transformer)
        return []

    return Subject(
        "LoRA, merging and taking out",
        work,
        (transformer,),
        tuple(weights.values()),
        result=lambda _: [_output(transformer)],
    )


def attaching() -> Subject:
    """A LoRA beside the layers, for a forward pass."""
    transformer = narrow_cogvideox.build_transformer()
    lora = random_lora(transformer)

    def work() -> Sequence[Tensor]:
        with out_of_memory.explained("it was attached", "Lower the size."):
            attached = attach(transformer, lora)
        try:
            with out_of_memory.explained("it was computed", "Lower the size."):
                return [_output(transformer)]
        finally:
            attached.detach()

    return Subject("LoRA, attaching", work, (transformer,))


def storing_in_fp8() -> Subject:
    """Of a fresh network each time, which must be as good for a second try after a failed one."""
    fresh = narrow_cogvideox.build_transformer()
    made: list[nn.Module] = [fresh]

    def work() -> Sequence[Tensor]:
        store_in_fp8(made[0])
        return []

    return Subject(
        "weights, storing in 8 bits",
        work,
        prepare=lambda: made.__setitem__(0, copy.deepcopy(fresh)),
        result=lambda _: [_output(made[0])],
    )


def loading_svd(folder: Path) -> Subject:
    """Files, cast to half of their size."""
    files = narrow_svd.save_files(folder)
    weights = svd.read_svd(*files)  # safetensors does not read where operations are watched

    def work() -> Sequence[Tensor]:
        with patch.object(svd, "read_svd", lambda *_: weights):
            pipe = load_svd(*files, dtype=torch.bfloat16, device="cpu")
        return [each for part in (pipe.unet, pipe.vae, pipe.image_encoder) for each in part.parameters()]

    return Subject("SVD, loading and casting", work, every=7, result=_in_float)


def loading_cogvideox(folder: Path) -> Subject:
    """The same, with weights that stay in main memory."""
    files = narrow_cogvideox.save_files(folder)
    parts = cogvideox.read_transformer(files[0]), cogvideox.read_vae(files[1])

    def work() -> Sequence[Tensor]:
        with (
            patch.object(cogvideox, "read_transformer", lambda *_: parts[0]),
            patch.object(cogvideox, "read_vae", lambda *_: parts[1]),
        ):
            pipe = load_cogvideox(files[0], vae=files[1], dtype=torch.bfloat16, device="cpu", stream=True)
        return [each for part in (pipe.transformer, pipe.vae) for each in part.parameters()]

    return Subject("CogVideoX, loading and casting, weights streamed", work, result=_in_float)


def _in_float(weights: Sequence[Tensor]) -> Sequence[Tensor]:
    return [each.detach().float() for each in weights]
