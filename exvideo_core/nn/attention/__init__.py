"""Attention, behind one signature: models know no backend's name."""

from .auto import BACKENDS, auto
from .backends import Attention, sdpa

__all__ = ["BACKENDS", "Attention", "auto", "sdpa"]
