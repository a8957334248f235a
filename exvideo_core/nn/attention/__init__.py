"""Attention backends behind one signature."""

from .auto import BACKENDS, auto
from .backends import Attention, sdpa

__all__ = ["BACKENDS", "Attention", "auto", "sdpa"]
