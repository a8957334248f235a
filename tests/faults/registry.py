"""All faults, in the order of the table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from . import cancel, core_subjects, disk
from .no_memory import ALWAYS, Subject, at_every_operation, on_small_devices
from .outcomes import Fault

_FILES = TemporaryDirectory(prefix="exvideo-faults-")
_ROOM = [int(2 ** (step / 4) * 2**18) for step in range(28, 16, -1)]  # bytes, of small devices

# A clip's sampling, conditioning, decoding and encoding fail once at every operation; variants of them, and what fails
# for longer, at every so-many-th, so that the whole takes less than an hour.
_ONCE, _LONG = 1, 5


def _sparse(make: Callable[[], Subject], every: int) -> Callable[[], Subject]:
    return lambda: replace(subject := make(), every=subject.every * every)


def _no_memory(where: str, make: Callable[[], Subject], once: int = _ONCE, again: int = _LONG) -> list[Fault]:
    """Three rows; `once` and `again` are strides."""
    return [
        Fault("out of memory, once", where, at_every_operation(_sparse(make, once), 1)),
        Fault("out of memory, twice in a row", where, at_every_operation(_sparse(make, again), 2)),
        Fault("out of memory from there on", where, at_every_operation(_sparse(make, again), ALWAYS)),
    ]


def _ctrl_c(where: str, make: Callable[[], Subject], every: int) -> Fault:
    return Fault("Ctrl-C", where, at_every_operation(_sparse(make, every), 1, KeyboardInterrupt))


def core_faults() -> list[Fault]:
    """In Python and on the command line."""
    folder = Path(_FILES.name)
    guided = {"min_guidance_scale": 1.0, "max_guidance_scale": 3.0}
    operations = [
        *_no_memory("SVD, one forward pass", core_subjects.svd_forward, 1, 5),
        *_no_memory("SVD, clip of two steps", core_subjects.svd_whole, 1, 47),
        *_no_memory("SVD, two steps with guidance", lambda: core_subjects.svd_whole(**guided), 97, 297),
        *_no_memory("SVD, weights streamed", lambda: core_subjects.svd_whole(is_streamed=True), 29, 97),
        *_no_memory("SVD, with step reuse", lambda: core_subjects.svd_whole(**core_subjects.with_reuse()), 149, 397),
        *_no_memory("SVD, with small chunks", lambda: core_subjects.in_cut_pieces(core_subjects.svd_whole()), 297, 797),
        *_no_memory("SVD, decoding", core_subjects.svd_decoding),
        *_no_memory("SVD, encoding", core_subjects.svd_encoding),
        *_no_memory("CogVideoX, one forward pass", core_subjects.cog_forward, 1, 5),
        *_no_memory("CogVideoX, two steps with guidance", core_subjects.cog_whole, 1, 13),
        *_no_memory("CogVideoX, weights streamed", lambda: core_subjects.cog_whole(is_streamed=True), 7, 23),
        *_no_memory(
            "CogVideoX, with step reuse", lambda: core_subjects.cog_whole(**core_subjects.with_reuse()), 13, 41
        ),
        *_no_memory(
            "CogVideoX, with small chunks", lambda: core_subjects.in_cut_pieces(core_subjects.cog_whole()), 47, 97
        ),
        *_no_memory("CogVideoX, decoding", core_subjects.cog_decoding),
        *_no_memory("CogVideoX, encoding", core_subjects.cog_encoding),
        *_no_memory("LoRA, merging a second one", core_subjects.merging, 1, 1),
        *_no_memory("LoRA, merging and taking out", core_subjects.removing, 1, 1),
        *_no_memory("LoRA, attaching and a forward pass", core_subjects.attaching, 1, 1),
        *_no_memory("weights to 8 bits", core_subjects.storing_in_fp8, 1, 1),
        *_no_memory("SVD, loading and casting", partial(core_subjects.loading_svd, folder), 23, 97),
        *_no_memory("CogVideoX, loading, streamed", partial(core_subjects.loading_cogvideox, folder), 3, 7),
    ]
    devices = [
        Fault("a device that is too small", "SVD, decoding", on_small_devices(core_subjects.svd_small_device, _ROOM)),
        Fault(
            "a device that is too small", "CogVideoX, decoding", on_small_devices(core_subjects.cog_small_device, _ROOM)
        ),
    ]
    stops = [
        *(Fault("Cancel", make().where, cancel.at_every_check(make)) for make in _CANCELLED),
        _ctrl_c("SVD, weights streamed", lambda: core_subjects.svd_whole(is_streamed=True), 37),
        _ctrl_c("CogVideoX, weights streamed", lambda: core_subjects.cog_whole(is_streamed=True), 5),
        _ctrl_c("LoRA, merging a second one", core_subjects.merging, 1),
        _ctrl_c("SVD, loading and casting", partial(core_subjects.loading_svd, folder), 97),
    ]
    return [*operations, *devices, *stops, *disk_faults()]


_CANCELLED = (cancel.svd, cancel.cogvideox, cancel.encoding)


def disk_faults() -> list[Fault]:
    """Where something is written."""
    in_folder, video = disk.in_folders, "video, six kinds"
    return [
        Fault("Cancel", f"{video}, every frame", in_folder(disk.cancel_at_frames)),
        Fault("ffmpeg killed", f"{video}, every frame and at the end", in_folder(disk.kill_ffmpeg)),
        Fault("ffmpeg missing, broken, failing", video, in_folder(disk.no_ffmpeg)),
        Fault("disk full", f"{video}, poster", disk.on_full_disks(disk.write_clip, disk.KINDS, 400_000)),
        Fault("disk full", "weight file", disk.on_full_disks(disk.write_file, ("x.safetensors",), 120_000)),
        Fault("disk full", "state of a training", in_folder(disk.training_checkpoints)),
        Fault("folder read-only", f"{video}, weight file", in_folder(disk.read_only)),
        Fault("folder deleted meanwhile", video, in_folder(disk.vanishing)),
        Fault("process killed", "writing videos", disk.kill_the_writer(disk.CLIP_AFTER_CLIP, ".mp4", 40)),
        Fault("process killed", "writing weight files", disk.kill_the_writer(disk.FILE_AFTER_FILE, ".safetensors", 40)),
        Fault("clock jumps by days", "sampling, writing, progress", in_folder(disk.clock_jumps)),
    ]


def comfyui_faults() -> list[Fault]:
    """In ComfyUI, imported into this process."""
    from . import comfyui_subjects as subjects

    coding = [
        row
        for model in ("SVD", "CogVideoX")
        for verb, make in (("decoding", subjects.decoding), ("encoding", subjects.encoding))
        for row in _no_memory(f"ComfyUI, {model} {verb}", partial(make, model), 1, 7)
    ]
    cancelled = [
        ("ComfyUI, SVD sampling, every 7th layer", subjects.svd_sampling),
        ("ComfyUI, CogVideoX sampling, every 7th layer", subjects.cog_sampling),
        *((f"ComfyUI, {m} decoding, every 7th layer", partial(subjects.decoding, m)) for m in ("SVD", "CogVideoX")),
        *((f"ComfyUI, {m} encoding, every 7th layer", partial(subjects.encoding, m)) for m in ("SVD", "CogVideoX")),
    ]
    return [
        *_no_memory("ComfyUI, SVD sampling", subjects.svd_sampling, 1, 51),
        *_no_memory("ComfyUI, SVD conditioning", subjects.svd_conditioning, 1, 9),
        *_no_memory("ComfyUI, CogVideoX sampling", subjects.cog_sampling, 1, 17),
        *_no_memory("ComfyUI, CogVideoX with a LoRA, then without", subjects.cog_sampling_with_lora, 1, 17),
        *coding,
        *(
            Fault("Cancel", where, cancel.at_every_check(lambda make=make: subjects.cancelled(make()), 7))  # type: ignore[misc]
            for where, make in cancelled
        ),
        Fault("disk full", "ComfyUI, Save ExVideo with a poster", subjects.saving_on_full_disks),
        Fault("six saves of one name at once", "ComfyUI, Save ExVideo", subjects.saving_at_once),
    ]
