"""Cancel at one check after another: every step, window, piece and frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from narrow_svd import noise
from torch import Tensor, nn

from . import core_subjects
from .outcomes import OTHER, POISONED, SAME, STOPPED, Count, compared, nothing_stays, state_of

Check = Callable[..., None]


class CancelError(Exception):
    """What a person's Cancel raises."""


@dataclass(frozen=True)
class Work:
    """Something that asks at every step or frame whether to go on."""

    where: str
    run: Callable[[Check], Sequence[Tensor]]
    networks: tuple[nn.Module, ...] = ()


def at_every_check(make: Callable[[], Work], every: int = 1) -> Callable[[int], Count]:
    """Cancel at each check in turn, or every so-many-th; the check must be the last thing that the work does."""

    def inject(stride: int) -> Count:
        count, work, checks = Count(), make(), 0

        def counting(*_: object) -> None:
            nonlocal checks
            checks += 1

        wanted = [each.clone() for each in work.run(counting)]
        state, all_checks = state_of(*work.networks), checks
        with nothing_stays(count, work.where):
            for last in range(0, all_checks, every * stride):
                _cancelled(work, last, count)
                if state_of(*work.networks) != state or compared(list(work.run(lambda *_: None)), wanted) != SAME:
                    count.add_harm(POISONED, f"{work.where}, check {last}")
        return count

    return inject


def _cancelled(work: Work, last: int, count: Count) -> None:
    seen = 0

    def check(*_: object) -> None:
        nonlocal seen
        seen += 1
        if seen > last:
            raise CancelError

    label = f"{work.where}, check {last}"
    try:
        work.run(check)
        count.add_harm(OTHER, f"{label}: it went on to the end")
    except CancelError:
        if seen != last + 1:
            count.add_harm(OTHER, f"{label}: it went on for {seen - last - 1} more")
    count.add(STOPPED)


def svd() -> Work:
    """Steps and windows of a clip."""
    pipe = core_subjects.svd_pipeline(is_streamed=True)

    def run(check: Check) -> Sequence[Tensor]:
        return core_subjects.svd_clip(pipe, num_inference_steps=4, num_frames=8, callback=check, decode_progress=check)

    return Work("SVD, every step and window", run, (pipe.unet, pipe.vae, pipe.image_encoder))


def cogvideox() -> Work:
    """Steps and pieces of a clip."""
    pipe = core_subjects.cog_pipeline(is_streamed=True)
    settings = {"num_inference_steps": 4, "num_frames": 33}

    def run(check: Check) -> Sequence[Tensor]:
        return core_subjects.cog_clip(pipe, **settings, callback=check, decode_progress=check)

    return Work("CogVideoX, every step and chunk", run, (pipe.transformer, pipe.vae))


def encoding() -> Work:
    """Frames and pieces of both autoencoders."""
    svd, cog = core_subjects.svd_pipeline().vae, core_subjects.cog_pipeline().vae
    video_TCHW, video_BCFHW = noise(5, 3, 32, 32), noise(1, 3, 33, 16, 16)

    @torch.inference_mode()
    def run(check: Check) -> Sequence[Tensor]:
        return [svd.encode(video_TCHW, check), cog.encode(video_BCFHW, check)]

    return Work("encoding, every frame and chunk", run, (svd, cog))
