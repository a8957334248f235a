"""Estimates of a clip before it is made: operations, time, memory."""

from .jobs import Clip, Estimate, Estimates, Place, usual_line
from .speed import Speed, Work, probe, seconds, work_of

__all__ = ["Clip", "Estimate", "Estimates", "Place", "Speed", "Work", "probe", "seconds", "usual_line", "work_of"]
