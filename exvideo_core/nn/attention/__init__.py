"""Attention backends behind one signature."""

from .backends import Attention, sdpa
from .choice import BACKENDS, auto

__all__ = ["BACKENDS", "Attention", "auto", "sdpa"]
