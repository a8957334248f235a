"""The sections of a run in the order of their worth: what is right first, then what users wait for, then why."""

from __future__ import annotations

from benchmarks.gpu import (
    attention,
    calls,
    clips,
    convolutions,
    correctness,
    kernels,
    machine,
    memory_cap,
    profiles,
    vaes,
    variants,
)
from benchmarks.gpu.sections import Section

_CLIP = ("transformers",)  # the image encoder's
_REFERENCES = ("diffusers", "diffsynth")

PLAN = (
    Section(name="machine", seconds=6, measure=machine.measure),
    Section(name="svd_is_right", seconds=35, measure=correctness.svd, needs=_CLIP),
    Section(name="cogvideox_is_right", seconds=15, measure=correctness.cogvideox),
    Section(name="kernels", seconds=35, measure=kernels.compare_all, is_of_gpu=True),
    Section(name="svd_512", seconds=35, measure=calls.svd_512),
    Section(name="svd_512_profile", seconds=8, measure=profiles.svd_512),
    Section(name="memory_cap", seconds=10, measure=memory_cap.retry, is_of_gpu=True),
    Section(name="cogvideox_129f", seconds=45, measure=calls.cogvideox_129f),
    Section(name="cogvideox_129f_profile", seconds=12, measure=profiles.cogvideox_129f),
    Section(name="svd_clip", seconds=30, measure=clips.svd, needs=_CLIP),
    Section(name="svd_vae", seconds=25, measure=vaes.svd),
    Section(name="svd_vae_profile", seconds=4, measure=profiles.svd_vae),
    Section(name="cogvideox_vae", seconds=20, measure=vaes.cogvideox),
    Section(name="cogvideox_vae_profile", seconds=5, measure=profiles.cogvideox_vae),
    Section(name="attention", seconds=10, measure=attention.measure),
    Section(name="convolutions", seconds=10, measure=convolutions.by_layout),
    Section(name="convolutions_3d", seconds=5, measure=convolutions.of_three_frames),
    Section(name="svd_references", seconds=25, measure=clips.svd_beside_references, needs=_REFERENCES),
    Section(name="cogvideox_references", seconds=30, measure=clips.cogvideox_beside_references, needs=_REFERENCES),
    Section(name="cogvideox_clip", seconds=65, measure=clips.cogvideox),
    Section(name="streamed", seconds=40, measure=variants.streamed),
    Section(name="svd_fused", seconds=50, measure=variants.svd_fused),
    Section(name="cudnn_benchmark", seconds=15, measure=variants.cudnn_benchmark),
    Section(name="svd_fp8", seconds=12, measure=variants.svd_fp8),
    Section(name="cogvideox_fp8", seconds=35, measure=variants.cogvideox_fp8),
    Section(name="cogvideox_fused", seconds=30, measure=variants.cogvideox_fused),
    Section(name="svd_1024", seconds=25, measure=calls.svd_1024),
    Section(name="kernels_used", seconds=0, measure=kernels.put_used),
)
