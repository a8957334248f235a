"""Sampling: noise levels, denoisers, guidance and the solver, for any network."""

from .guidance import rising_guidance

__all__ = ["rising_guidance"]
