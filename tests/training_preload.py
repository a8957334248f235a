"""Imports of a training process: done once, by the server process that training_runs.py forks the others from."""

# ruff: noqa: F401
import importlib.util
import warnings

import matplotlib.figure
import transformers
import yaml

import exvideo_core.cli.train
import exvideo_core.families.cogvideox.training
import exvideo_core.families.svd.training
import exvideo_core.training.loop

if importlib.util.find_spec("deepspeed"):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import deepspeed
    # Else it compiles an all-reduce for the processes of one CPU: a minute, and a lock that a killed run leaves behind.
    # Without it gloo does that, as NCCL does on GPUs.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
