"""The kernels that take the longest in a call; on the CPU, the operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu import networks
from benchmarks.gpu.bench import Bench
from exvideo_core.families.svd.vae import FRAMES_AT_ONCE

_TOP = 24  # kernels in a record


def svd_512(bench: Bench) -> None:
    """SVD, 128 frames of 512x512."""
    _put(bench, networks.svd_call(bench, bench.network(networks.svd_unet)))


def cogvideox_129f(bench: Bench) -> None:
    """CogVideoX, 129 frames of 720x480."""
    _put(bench, networks.cogvideox_call(bench, bench.network(networks.cogvideox)))


def svd_vae(bench: Bench) -> None:
    """A window of 8 frames of 512x512."""
    vae = bench.network(networks.svd_vae)
    cells = bench.size(64, 8)
    window = bench.random(FRAMES_AT_ONCE, vae.config.latent_channels, cells, cells, dtype=bench.half)
    _put(bench, lambda: vae.decoder(window, vae.chunk_bytes))


def cogvideox_vae(bench: Bench) -> None:
    """17 frames of 720x480."""
    vae = bench.network(networks.cogvideox_vae)
    height, width = bench.size((60, 90), (4, 6))
    latents = bench.random(1, vae.config.latent_channels, 5, height, width, dtype=bench.brain)
    _put(bench, lambda: vae.decode(latents))


def _put(bench: Bench, call: Callable[[], Any]) -> None:
    call()  # kernels are compiled, chosen and compared
    bench.wait()
    activity = ProfilerActivity.CUDA if bench.on_gpu else ProfilerActivity.CPU
    with profile(activities=[activity]) as profiler:
        call()
        bench.wait()
    events = [(_busy(event), event.count, event.key) for event in profiler.key_averages() if _is_kernel(bench, event)]
    events.sort(reverse=True)
    total, launches = sum(event[0] for event in events), sum(event[1] for event in events)
    bench.record.put("all kernels", kernel_seconds=total, launches=launches)
    for seconds, count, key in events[:_TOP]:
        bench.record.put(key[:100], kernel_seconds=seconds, launches=count)


def _is_kernel(bench: Bench, event: Any) -> bool:
    """Whether it ran on the device; an operator's own time on CUDA is that of the kernels it launched."""
    return event.device_type == (DeviceType.CUDA if bench.on_gpu else DeviceType.CPU)


def _busy(event: Any) -> float:
    microseconds = event.self_device_time_total if event.device_type == DeviceType.CUDA else event.self_cpu_time_total
    return microseconds / 1e6
