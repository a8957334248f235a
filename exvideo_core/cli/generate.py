"""`exvideo generate MODEL`: make a video; the models are the families'."""

from __future__ import annotations

import argparse
from functools import partial

from .. import registry
from ..family import Command


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb to the command line."""
    models = subparsers.add_parser("generate", help="make a video").add_subparsers(required=True, metavar="MODEL")
    for family in registry.FAMILIES:
        command = family.command()
        parser = models.add_parser(family.name, help=command.help)
        command.add_options(parser)
        parser.add_argument(
            "--estimate",
            action="store_true",
            help="say how long it would take, and in how much memory, and make nothing",
        )
        parser.set_defaults(run=partial(_run, command))


def _run(command: Command, arguments: argparse.Namespace) -> int:
    if arguments.estimate:
        print(command.estimate(arguments))
    else:
        command.run(arguments)
    return 0
