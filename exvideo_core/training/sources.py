"""Clips for a run: drawn as needed, or cut from videos, encoded once and kept.

Shapes: T frames, C channels, H and W pixels or latent cells, L tokens, D channels of an embedding.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor

from ..errors import ExVideoError
from ..families.cogvideox.checkpoint import read_text_encoder, read_vae
from ..families.cogvideox.pipeline import build_text_encoder, build_vae
from ..families.cogvideox.text_encoder import TextEncoder
from ..families.cogvideox.training import paths
from ..families.svd.checkpoint import SVDWeights
from ..families.svd.image_encoder import ImageEncoder
from ..families.svd.vae import VAE
from ..runtime.distributed import World
from ..runtime.memory import free_bytes, num_bytes
from ..weights.write import write_weights
from .clips import CachedClips, CogVideoXClip, Source, SVDClip
from .config import CogVideoXTraining, DataConfig, SVDTraining, Training
from .data.cache import CachedClip, Encode, cache_clips, plan_clips, read_cached, usable_clips
from .data.index import BAD_FILES_NAME, Index, index_videos
from .data.listing import list_videos
from .data.videos import Sampling
from .motion_buckets import motion_bucket
from .procedural import shapes
from .procedural.gallery import SIDE, Gallery, MovingShapes, PushIns
from .procedural.pictures import PHOTOGRAPHS, Pictures
from .randomness import shuffled

log = logging.getLogger(__name__)

PROCEDURAL = "procedural"
_SVD = ("latents", "picture", "context", "fps", "motion_bucket")  # tensors of a clip
_COGVIDEOX = ("latents", "context", "fps")
_VERSION = "1"  # of what `Encode` makes; a new one makes the caches anew
_WORKING_SPACE = 6 * 2**30  # bytes that encoding a clip takes beside the text encoder
Progress = Callable[[str, int, int], None]  # what is done, how much of how much


def encoding_format(device: torch.device) -> torch.dtype:
    """In which autoencoders and encoders run: half precision is for GPUs."""
    return torch.float16 if device.type == "cuda" else torch.float32


# Stable Video Diffusion


def svd_source(
    config: SVDTraining,
    weights: SVDWeights,
    encoders: tuple[VAE, ImageEncoder],
    world: World,
    progress: Progress | None = None,
) -> Source[SVDClip]:
    """Clips for SVD.

    Args:
        config: of the run.
        weights: of the encoders; clips that others encoded are not used.
        encoders: on the device.
        world: the processes, which share the encoding.
        progress: told how far it is.
    """
    vae, image_encoder = encoders
    if config.data.source == PROCEDURAL:
        _check_procedural(config.data, SIDE, config.data.pictures - 1)
        pictures = Pictures(photos=PHOTOGRAPHS if config.data.photographs else (), seed=config.run.seed)
        gallery = Gallery(pictures, vae, image_encoder, config.data.pictures, fresh=0, seed=config.run.seed)
        return PushIns(gallery, config.model.num_frames, config.data.held_out)

    @torch.no_grad()
    def encode(frames_THWC: Tensor, _caption: str, fps: float) -> Mapping[str, Tensor]:
        pixels_TCHW = rearrange(frames_THWC, "T H W C -> T C H W")
        latents = [vae.encode(_to_pixels(frame_CHW)[None])[0] for frame_CHW in pixels_TCHW]
        return {
            "latents": torch.stack(latents).half().cpu(),
            "picture": pixels_TCHW[0],
            "context": image_encoder(_to_pixels(pixels_TCHW[0])[None].to(world.device)).float().cpu(),
            "fps": torch.tensor(fps),
            "motion_bucket": torch.tensor(motion_bucket(frames_THWC)),
        }

    mark = content_mark((weights.vae, weights.image_encoder))
    clips = _encoded(config, world, mark, lambda: encode, progress)
    return CachedClips(
        len(clips), config.data.held_out, lambda i: _svd_clip(read_cached(clips[i], _SVD)), config.run.seed
    )


def _to_pixels(uint8: Tensor) -> Tensor:
    return uint8.float() / 127.5 - 1


def _svd_clip(tensors: Mapping[str, Tensor]) -> SVDClip:
    return SVDClip(
        latents_TCHW=tensors["latents"].float(),
        picture_3HW=_to_pixels(tensors["picture"]),
        context_1D=tensors["context"],
        fps=float(tensors["fps"]),
        motion_bucket_id=float(tensors["motion_bucket"]),
    )


# CogVideoX


def cogvideox_source(
    config: CogVideoXTraining, world: World, progress: Progress | None = None
) -> tuple[Source[CogVideoXClip], Tensor]:
    """Clips for CogVideoX, and the embedding of the empty sentence, [L, D]; arguments as `svd_source`'s."""
    _, vae_path, text_path = paths(config.model)
    text_part = read_text_encoder(text_path)
    if config.data.source == PROCEDURAL:
        _check_procedural(config.data, shapes.SIDE, sum(words.is_held_out for words in shapes.all_words()))
        text_encoder = build_text_encoder(text_part).to(encoding_format(world.device))
        clips = MovingShapes(text_encoder, config.model.num_frames, config.data.held_out)
        return clips, _embedded(text_encoder, "")
    vae_part = read_vae(vae_path)
    mark = content_mark((vae_part.weights, text_part.weights))

    @lru_cache(maxsize=1)
    def text_encoder_in_place() -> TextEncoder:
        encoder = build_text_encoder(text_part).to(encoding_format(world.device))
        has_room = num_bytes(encoder) + _WORKING_SPACE < free_bytes(world.device)
        return encoder.to(world.device) if has_room else encoder

    def build_encode() -> Encode:
        vae = build_vae(vae_part).to(world.device, encoding_format(world.device))
        text_encoder = text_encoder_in_place()

        @torch.no_grad()
        def encode(frames_THWC: Tensor, caption: str, fps: float) -> Mapping[str, Tensor]:
            latents = vae.encode(_to_pixels(rearrange(frames_THWC, "T H W C -> 1 C T H W")))[0]
            return {
                "latents": latents.half().cpu(),
                "context": _embedded(text_encoder, caption).half(),
                "fps": torch.tensor(fps),
            }

        return encode

    encoded = _encoded(config, world, mark, build_encode, progress)
    no_text = cache_folder(config) / f"no_text_{mark[:16]}.safetensors"
    if world.is_first and not no_text.exists():
        write_weights(no_text, {"context": _embedded(text_encoder_in_place(), "").half()})
    world.wait()
    text_encoder_in_place.cache_clear()  # many GB that training has better uses for
    source = CachedClips(
        len(encoded), config.data.held_out, lambda i: _cog_clip(read_cached(encoded[i], _COGVIDEOX)), config.run.seed
    )
    return source, read_cached(no_text, ("context",))["context"].float()


@torch.no_grad()
def _embedded(text_encoder: TextEncoder, caption: str) -> Tensor:
    return text_encoder([caption])[0].float().cpu()


def _cog_clip(tensors: Mapping[str, Tensor]) -> CogVideoXClip:
    return CogVideoXClip(
        latents_CTHW=tensors["latents"].float(), context_LD=tensors["context"].float(), fps=float(tensors["fps"])
    )


# both


def cache_folder(config: Training) -> Path:
    """Where encoded clips are kept."""
    return Path(config.data.cache or Path(config.run.output) / "cache")


def content_mark(parts: Iterable[Mapping[str, Tensor]]) -> str:
    """A name for weights by what they are, wherever they lie: from the first numbers of every tensor."""
    mark = hashlib.sha256(_VERSION.encode())
    for weights in parts:
        for name in sorted(weights):
            few = weights[name].flatten()[:16].contiguous()
            mark.update(f"{name} {tuple(weights[name].shape)}".encode())
            mark.update(few.view(torch.uint8).numpy().tobytes())
    return mark.hexdigest()


def _encoded(
    config: Training, world: World, mark: str, build_encode: Callable[[], Encode], progress: Progress | None
) -> list[Path]:
    """Files of all clips that can be had, those that are held out last; the same in every process."""
    data, folder = config.data, cache_folder(config)
    sampling = Sampling(num_frames=config.model.num_frames, fps=data.fps, stride=data.stride)

    def tell(what: str) -> Callable[[int, int], None]:
        return lambda done, total: progress(what, done, total) if progress else None

    def index() -> Index:
        listed = list_videos(Path(data.source))
        return index_videos(
            listed, folder, sampling, data.max_bad_share, tell("looking at videos"), workers=os.cpu_count() or 1
        )

    # the first process looks, and all go by what it found
    known = world.gather(index() if world.is_first else None)[0]
    clips = plan_clips(
        known.videos, folder, sampling, data.width, data.height, data.clips_per_video, config.run.seed, mark
    )
    encoding = tell("encoding clips")
    cache_clips(clips, build_encode, known, folder, data.max_bad_share, world.rank, world.size, encoding)
    world.wait()
    usable = usable_clips(clips, known, folder, data.max_bad_share)
    lost = len(known.bad) + len({video.path for video in known.videos} - {clip.video for clip in usable})
    if lost and world.is_first:
        log.warning("%d of %d videos are not used; see %s", lost, known.num_listed, folder / BAD_FILES_NAME)
    return _held_out_last(usable, data.held_out, config.run.seed)


def _held_out_last(clips: Sequence[CachedClip], held_out: int, seed: int) -> list[Path]:
    """One clip of each of so many videos behind all clips of the others: no video is both."""
    videos = list(dict.fromkeys(clip.video for clip in clips))
    if held_out >= len(videos):
        raise ExVideoError(
            f"data.held_out is {held_out}, and there are {len(videos)} usable videos: at least one must be left to "
            f"train on. Give more videos, or set data.held_out to {len(videos) - 1} or less."
        )
    order = shuffled(len(videos), seed, -1)
    kept = {videos[place] for place in order[:held_out]}
    training = [clip.file for clip in clips if clip.video not in kept]
    first = {clip.video: clip.file for clip in reversed(clips)}
    return [*training, *(first[videos[place]] for place in order[:held_out])]


def _check_procedural(data: DataConfig, side: int, held_out: int) -> None:
    if (data.width, data.height) != (side, side):
        raise ExVideoError(
            f"data.source procedural has pictures of {side}x{side}, not {data.width}x{data.height}; set data.width and "
            f"data.height to {side}."
        )
    if data.held_out > held_out:
        raise ExVideoError(f"data.held_out is {data.held_out}; of this source at most {held_out} can be held out.")
