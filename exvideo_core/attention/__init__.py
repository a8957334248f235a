"""Attention, behind one signature: models know no backend's name."""

from .backends import Attention, sdpa
from .choice import BACKENDS, auto

__all__ = ["BACKENDS", "Attention", "auto", "sdpa"]
