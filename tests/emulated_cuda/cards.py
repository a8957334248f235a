"""Graphics cards that are emulated: what kernels and the product's choices depend on."""

from __future__ import annotations

from dataclasses import dataclass, replace

GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Card:
    """A card.

    Attributes:
        capability: compute capability; for AMD, gfx major and minor as PyTorch reports them.
        num_bytes: memory that a program can have, a few percent less than what the box says.
        is_rocm: whether it is AMD's.
        scales_rows: whether `_scaled_mm` takes a scale for each row: from PyTorch 2.7 on (pytorch#130359), on cards
            that have fp8 in the format e4m3fn.
    """

    name: str
    capability: tuple[int, int]
    num_bytes: int
    is_rocm: bool = False
    scales_rows: bool = True

    @property
    def has_bfloat16(self) -> bool:
        """Whether it computes in bfloat16; older ones only emulate it."""
        return self.is_rocm or self.capability >= (8, 0)

    def with_memory(self, gib: float) -> Card:
        """The same card with another memory."""
        return replace(self, num_bytes=int(gib * GIB))


H200 = Card(name="NVIDIA H200", capability=(9, 0), num_bytes=139 * GIB)
RTX_4090 = Card(name="NVIDIA GeForce RTX 4090", capability=(8, 9), num_bytes=int(23.5 * GIB))
RTX_3060 = Card(name="NVIDIA GeForce RTX 3060", capability=(8, 6), num_bytes=int(11.6 * GIB))
RTX_2080 = Card(name="NVIDIA GeForce RTX 2080", capability=(7, 5), num_bytes=int(7.6 * GIB), scales_rows=False)
# its fp8 format is e4m3fnuz, so products in e4m3fn are refused
MI300 = Card(name="AMD Instinct MI300X", capability=(9, 4), num_bytes=191 * GIB, is_rocm=True, scales_rows=False)
# an RX 7900: no fp8 at all, though gfx11.0 is a larger number than capability 8.9
RX_7900 = Card(
    name="AMD Radeon RX 7900 XTX", capability=(11, 0), num_bytes=int(23.5 * GIB), is_rocm=True, scales_rows=False
)
