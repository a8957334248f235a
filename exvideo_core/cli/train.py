"""`exvideo train`: extend a model yourself."""

from __future__ import annotations

import argparse

from . import train_command


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser("train", help="extend a model to longer clips")
    train_command.add_arguments(parser)
    parser.set_defaults(run=train_command.run)
