"""Costs of a call, counted: launches, waits of the host, copies, and what kernels do besides their work."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields


def _counter() -> Counter[str]:
    return Counter()


@dataclass
class Costs:
    """Counts so far; the difference of two is the cost of what lies between.

    Attributes:
        launches: kernels by operation; a fused attention counts as one.
        waits: of the host for a device, by cause.
        copies: between host and devices, by direction (H2D, D2H, P2P).
        copied: their bytes.
        pageable: copies that were to be asynchronous, but whose memory is not page-locked, by direction.
        convolutions: by what kernels find: "channels first", "weights re-laid", "inputs re-laid", "too large".
        relaid: bytes of weights and inputs that are brought into another layout for a convolution or norm.
        attention: calls by kernel: flash, efficient, cudnn, math.
        float64: kernels that compute in float64.
        widened: bytes of float32 copies of 16-bit tensors, by operation.
        scores: bytes of the largest scores that attention by `math` has made.
        mixed: operations on tensors of two cards.
    """

    launches: Counter[str] = field(default_factory=_counter)
    waits: Counter[str] = field(default_factory=_counter)
    copies: Counter[str] = field(default_factory=_counter)
    copied: Counter[str] = field(default_factory=_counter)
    pageable: Counter[str] = field(default_factory=_counter)
    convolutions: Counter[str] = field(default_factory=_counter)
    relaid: Counter[str] = field(default_factory=_counter)
    attention: Counter[str] = field(default_factory=_counter)
    float64: Counter[str] = field(default_factory=_counter)
    widened: Counter[str] = field(default_factory=_counter)
    mixed: Counter[str] = field(default_factory=_counter)
    scores: int = 0

    def copy(self) -> Costs:
        """The counts as they are now."""
        return Costs(**{each.name: self._copy_of(each.name) for each in fields(self)})

    def since(self, before: Costs) -> Costs:
        """What was added to earlier counts; `scores` is that of the whole time."""
        counters = [each.name for each in fields(self) if each.name != "scores"]
        return Costs(scores=self.scores, **{name: getattr(self, name) - getattr(before, name) for name in counters})

    def _copy_of(self, name: str) -> Counter[str] | int:
        value = getattr(self, name)
        return value.copy() if isinstance(value, Counter) else value
