"""`exvideo train`."""

from __future__ import annotations

import argparse
import logging
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.contrib.logging import logging_redirect_tqdm

from .. import registry
from ..errors import ExVideoError
from ..runtime.distributed import World, init_world
from ..terminal.progress import Bar
from ..whole_file import whole_file

if TYPE_CHECKING:
    from ..training.recipe import TrainingRecipe
    from ..training.settings import Training

log = logging.getLogger(__name__)
_USAGE = """
  exvideo train --init svd > my_extension.yaml    a configuration with every default and description
  exvideo train my_extension.yaml --dry-run       check it; report what would be trained and how much memory it takes
  exvideo train my_extension.yaml                 train; the same command resumes after an interruption
  torchrun --nproc-per-node 8 -m exvideo_core.training my_extension.yaml    train on 8 GPUs
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "train",
        help="extend a model to longer clips",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=_USAGE,
    )
    parser.set_defaults(run=run)
    parser.add_argument("config", type=Path, nargs="?", metavar="CONFIG.yaml", help="what to train, and how")
    parser.add_argument("--init", choices=registry.training_recipes(), help="print a configuration with every default")
    parser.add_argument("--dry-run", action="store_true", help="check everything that can be checked without training")
    parser.add_argument("--device", help="such as cpu; by default CUDA if available")


def run(arguments: argparse.Namespace) -> int:
    """Do what the arguments ask for; 130 if a signal ended the run early."""
    recipes = registry.training_recipes()
    if not arguments.init and arguments.config is None:
        written = " or ".join(f"--init {name}" for name in recipes)
        raise ExVideoError(f"which run? Give a CONFIG.yaml, or {written} to have one written.")
    # imported here, so that the other verbs need no pydantic and start sooner
    from ..training.config import read_config, write_template

    if arguments.init:
        sys.stdout.write(write_template(recipes[arguments.init]().config))
        return 0
    config = read_config(arguments.config, recipes)
    recipe = recipes[config.target]()
    if arguments.dry_run:
        from ..training.dry_run import dry_run

        sys.stdout.write(f"{dry_run(recipe, config)}\n")
        return 0
    with init_world(arguments.device, always=config.run.engine == "deepspeed") as world:
        logging.basicConfig(
            level=logging.INFO if world.is_first else logging.ERROR, format="%(asctime)s %(message)s", stream=sys.stderr
        )
        with logging_redirect_tqdm():
            return 0 if _train(recipe, config, arguments.config, world) else 130


def _train(recipe: TrainingRecipe[Any], config: Training, path: Path, world: World) -> bool:
    from ..training.loop import Run

    output = Path(config.run.output)
    if world.is_first:
        output.mkdir(parents=True, exist_ok=True)
    with _Bars() as bars:
        target = recipe.build(config, world, bars.prepare if world.is_first else None)
        run = Run(config, target, world)
        if world.is_first:  # not before: another run's folder keeps its own
            with whole_file(output / "config.yaml", ExVideoError) as copy:
                copy.write_bytes(path.read_bytes())
        is_finished = run.train(bars.step if world.is_first else None)
    if world.is_first:
        exported = output / f"{config.run.name}.safetensors"
        log.info("%s", f"done: {exported}" if is_finished else f"stopped; saved at step {run.step}")
    return is_finished


class _Bars(ExitStack):
    """Progress bars with time left, one at a time: for each preparation, and for the steps."""

    bar: Bar | None = None

    def prepare(self, what: str, done: int, total: int) -> None:
        if self.bar is None or self.bar.label != what:
            self.close()  # the bar before
            self.bar = self.enter_context(Bar(what, "step"))
        self.bar(done, total)

    def step(self, step: int, steps: int, loss: float) -> None:
        self.prepare("training", step, steps)
        if self.bar and self.bar.bar:
            self.bar.bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
