"""CogVideoX-5B with ExVideo's LoRA (arXiv:2408.06072, arXiv:2406.14130)."""

from ...family import Family

COGVIDEOX = Family(
    name="cogvideox",
    title="CogVideoX",
)
