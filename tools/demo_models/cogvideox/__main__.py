"""Train the embedded CogVideoX demo model from nothing: `python -m tools.demo_models.cogvideox --out DIR`.

Four stages, each of which can be killed and resumes when the command is run again. The three weight
files in DIR are written after the last stage (or with `--export` at any time, from what there is). Its LoRA is then
trained as any other: `exvideo train samples/training/demo_cogvideox.yaml`.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from .recipe import STAGES, DemoTraining, Recipe


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tools.demo_models.cogvideox", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the weights and for what a restart needs")
    parser.add_argument("--steps", type=int, help="at most so many in every stage, to see that it runs")
    parser.add_argument("--stage", choices=STAGES, help="only this one")
    parser.add_argument("--export", action="store_true", help="only write the weight files, from the stages there are")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    torch.set_num_threads(1)  # more threads than free cores make a step 15 times slower
    training = DemoTraining(Recipe() if given.steps is None else Recipe().shortened(given.steps), given.out)
    if given.export:
        training.export(given.out)
    elif given.stage:
        getattr(training, f"train_{given.stage}")()
    else:
        training.train()
    return 0


if __name__ == "__main__":
    sys.exit(main())
