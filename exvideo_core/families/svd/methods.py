"""Sampling methods of SVD, by the names that Python, the command line and ComfyUI use."""

from ...sampling.methods import Method
from ...sampling.schedules import karras_sigmas

METHODS = {
    "euler": Method(schedule=karras_sigmas),  # DiffSynth-Studio's and diffusers'
    "dpmpp_2m": Method(schedule=karras_sigmas, order=2),
}
