"""What a process that trains imports: imported once, by the process that those of training_runs.py are forked from."""

import importlib.util
import warnings

import matplotlib.figure
import transformers
import yaml

import exvideo_core.cli
import exvideo_core.training.build
import exvideo_core.training.loop  # noqa: F401

if importlib.util.find_spec("deepspeed"):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import deepspeed
    # It would compile, for a minute, how processes on one CPU add up; without that gloo adds, as nccl does on GPUs.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
