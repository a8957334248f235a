"""Memory that a run keeps on each GPU between steps, by count. Activations come on top (see `run.checkpointing`)."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from .settings import OptimizerConfig, RunConfig

_FP32 = 4
_TRUNK = {"bf16": 2, "fp32": 4}
# bytes of optimizer state per trained parameter; 8 bits have a float32 scale for each 256
_MOMENTS = {"adamw": 8.0, "adamw8bit": 2 * (1 + 4 / 256), "muon": 4.0}


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Bytes on each GPU.

    Attributes:
        frozen: the frozen network, replicated.
        weights: trained, in float32: this GPU's shard, and the gathered whole while it is used.
        gradients: in float32; this GPU's shard.
        moments: of the optimizer; this GPU's shard.
        average: EMA of the weights; this GPU's shard.
    """

    frozen: int
    weights: int
    gradients: int
    moments: int
    average: int

    @property
    def total(self) -> int:
        """All bytes."""
        return sum(asdict(self).values())


def footprint(frozen: int, trained: int, gpus: int, run: RunConfig, optimizer: OptimizerConfig) -> Footprint:
    """Count for a network of so many frozen and trained parameters.

    DeepSpeed keeps the EMA whole on every GPU, and two copies of the weights on one.
    """
    part = -(-trained // gpus)
    is_deepspeed = run.engine == "deepspeed"
    return Footprint(
        frozen=frozen * _TRUNK[run.precision],
        weights=_FP32 * (trained + part if gpus > 1 or is_deepspeed else trained),
        gradients=_FP32 * part,
        moments=round(_MOMENTS[optimizer.kind] * part),
        average=_FP32 * (trained if is_deepspeed else part) if run.average else 0,
    )


def footprint_table(frozen: int, trained: int, run: RunConfig, optimizer: OptimizerConfig) -> str:
    """Table for 1, 2 and 8 GPUs, in GB, as in the documentation."""
    counts = (1, 2, 8)
    prints = [footprint(frozen, trained, gpus, run, optimizer) for gpus in counts]
    rows = [("GB on each of", *(f"{gpus} GPU{'s' * (gpus > 1)}" for gpus in counts)), ("---",) * (1 + len(counts))]
    for kind in (*asdict(prints[0]), "total"):
        rows.append((kind, *(f"{getattr(one, kind) / 1e9:.2f}" for one in prints)))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
