"""The command `exvideo`: one file for each verb."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ..errors import ExVideoError
from . import demo, download, eval as evaluation, generate, inspect, train


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; errors that the user can act on are one sentence and status 2."""
    parser = argparse.ArgumentParser(prog="exvideo", description="Long videos from one picture or one sentence.")
    parser.add_argument("--debug", action="store_true", help="show the traceback of errors")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb in (generate, demo, download, inspect, train, evaluation):
        verb.add_parser(verbs)
    arguments = parser.parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except ExVideoError as error:
        if arguments.debug:
            raise
        sys.stderr.write(f"exvideo: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("exvideo: stopped\n")
        return 130
