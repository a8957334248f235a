"""Measurements against the promised limits, as a Markdown page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Results = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Promise:
    """An upper limit for a measurement.

    Attributes:
        text: row label.
        value: reads the measurement from the results; a KeyError means that it was not measured.
        most: the limit.
        unit: of both.
    """

    text: str
    value: Callable[[Results], float]
    most: float
    unit: str


def _row(results: Results, name: str, engine: str = "exvideo") -> Mapping[str, Any]:
    return next(row for row in results[name]["rows"] if row["engine"] == engine)


def _peak(job: str) -> Callable[[Results], float]:
    return lambda results: results["counts"][job]["exvideo"]["peak"] / 1e9


def _ratio(name: str, first: str = "diffsynth") -> Callable[[Results], float]:
    return lambda results: _row(results, name)["cpu_s"] / _row(results, name, first)["cpu_s"]


def whole(row: Mapping[str, Any], steps: int) -> float:
    """Seconds of a job with `steps` steps, extrapolated where fewer were run."""
    return row["seconds"] if row["steps"] == steps else row["rest_seconds"] + steps * row["step_seconds"]


def _job(name: str, key: str = "seconds", unit: float = 1.0) -> Callable[[Results], float]:
    return lambda results: results[f"{name}_exvideo"][key] / unit


def _job_ratio(name: str, reference: str) -> Callable[[Results], float]:
    def value(results: Results) -> float:
        own = results[f"{name}_exvideo"]
        return own["seconds"] / whole(results[f"{name}_{reference}"], own["steps"])

    return value


_COUNTS = [
    Promise(text=f"{text}, peak memory beside weights", value=_peak(job), most=most, unit="GB")
    for job, text, most in (
        ("svd_512", "SVD 128 frames 512x512", 2.4),
        ("svd_512_streamed", "the same, skips streamed", 1.6),
        ("svd_1024", "SVD 128 frames 1024x1024", 8.5),
        ("svd_1024_streamed", "the same, skips streamed", 5.8),
        ("cog_129f", "CogVideoX 129 frames 480x720", 1.9),
        ("cog_vae_decode", "CogVideoX VAE, 129 frames decoded", 5.0),
        ("svd_vae_1024", "SVD VAE, 8 frames 1024x1024 decoded", 4.0),
    )
]
PROMISES = [
    *_COUNTS,
    Promise(
        text="SVD 128 frames 512x512, operations of one call",
        value=lambda results: results["counts"]["svd_512"]["exvideo"]["total_flops"] / 1e12,
        most=196,
        unit="TFLOP",
    ),
    Promise(
        text="SVD UNet 8 frames 128x128 fp32, CPU time to DiffSynth's", value=_ratio("unet_fp32"), most=0.75, unit=""
    ),
    Promise(
        text="CogVideoX layer fp32, CPU time to DiffSynth's",
        value=_ratio("cogvideox_layer_fp32"),
        most=0.85,
        unit="",
    ),
    Promise(
        text="SVD UNet 8 frames 128x128, CPU time of bf16 to fp32",
        value=lambda results: _row(results, "unet_bf16")["cpu_s"] / _row(results, "unet_fp32")["cpu_s"],
        most=1.0,
        unit="",
    ),
    Promise(
        text="SVD UNet 8 frames 128x128 fp32, whole process beside weights",
        value=lambda results: _row(results, "unet_memory")["beside_bytes"] / 1e9,
        most=0.6,
        unit="GB",
    ),
    Promise(text="SVD 128 frames 512x512, 50 steps", value=_job("svd_512"), most=60, unit="s"),
    Promise(text="the same, to DiffSynth's", value=_job_ratio("svd_512", "diffsynth"), most=0.55, unit=""),
    Promise(
        text="the same, GPU memory of the process", value=_job("svd_512", "reserved_bytes", 1e9), most=7, unit="GB"
    ),
    Promise(
        text="SVD 1024x1024 second pass, to DiffSynth's",
        value=_job_ratio("svd_1024_second_pass", "diffsynth"),
        most=0.55,
        unit="",
    ),
    Promise(text="CogVideoX 129 frames, 50 steps", value=_job("cog_129f"), most=340, unit="s"),
    Promise(text="the same, to diffusers'", value=_job_ratio("cog_129f", "diffusers"), most=0.6, unit=""),
    Promise(
        text="the same, GPU memory of the process", value=_job("cog_129f", "reserved_bytes", 1e9), most=14, unit="GB"
    ),
    Promise(
        text="the same with weights streamed", value=_job("cog_129f_streamed", "reserved_bytes", 1e9), most=4, unit="GB"
    ),
    Promise(
        text="its time to that with weights on the GPU",
        value=lambda results: results["cog_129f_streamed_exvideo"]["seconds"] / results["cog_129f_exvideo"]["seconds"],
        most=1.1,
        unit="",
    ),
]


def page(measured: Mapping[str, Any]) -> str:
    """Markdown of the promises that were measured, and of all rows."""
    machine = ", ".join(f"{key} {value}" for key, value in measured["machine"].items())
    lines = [f"# Measured\n\n{machine}\n", "| promise | measured | at most | |", "| --- | ---: | ---: | --- |"]
    for promise in PROMISES:
        try:
            value = promise.value(measured["results"])
        except (KeyError, StopIteration):
            continue
        kept = "kept" if value <= promise.most else "**not kept**"
        lines.append(f"| {promise.text} | {value:.3g} {promise.unit} | {promise.most:g} {promise.unit} | {kept} |")
    for name, result in measured["results"].items():
        lines += ["", f"## {name}", "", *(_counts(result) if name == "counts" else _rows(result))]
    return "\n".join(lines) + "\n"


def _counts(rows: Mapping[str, Any]) -> list[str]:
    engines = list(dict.fromkeys(engine for row in rows.values() for engine in row))
    head = ["job", *(f"{engine} TFLOP" for engine in engines), *(f"{engine} GB" for engine in engines)]
    body = [
        [
            name,
            *(f"{row[engine]['total_flops'] / 1e12:.2f}" if engine in row else "" for engine in engines),
            *(f"{row[engine]['peak'] / 1e9:.2f}" if engine in row else "" for engine in engines),
        ]
        for name, row in rows.items()
    ]
    return table(head, body)


def _rows(result: Mapping[str, Any]) -> list[str]:
    rows = result.get("rows", [result])
    head = list(rows[0])
    return table(head, [[_number(key, row.get(key)) for key in head] for row in rows])


def _number(key: str, value: Any) -> str:
    if key.endswith("_bytes") and value is not None:
        return f"{value / 1e9:.2f} GB"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def table(head: list[str], body: list[list[str]]) -> list[str]:
    """Lines of a Markdown table."""
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *body)]
