"""`exvideo demo`: a small clip with one of the embedded demo models."""

from __future__ import annotations

import argparse

from .. import registry
from ..family import Demo


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb to the command line."""
    # it takes all options unparsed: which there are depends on the model, whose parser reads them
    parser = subparsers.add_parser(
        "demo", help="make a small clip with an embedded demo model", add_help=False, prefix_chars="\0"
    )
    parser.add_argument("options", nargs=argparse.REMAINDER)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    demos = {family.name: demo for family in registry.FAMILIES if (demo := family.command().demo)}
    chosen, _ = _parser(demos, add_help=False).parse_known_args(arguments.options)
    parser = _parser(demos, prog=f"exvideo demo --model {chosen.model}")
    demo = demos[chosen.model]
    demo.add_options(parser)
    demo.run(parser.parse_args(arguments.options))
    return 0


def _parser(demos: dict[str, Demo], prog: str = "exvideo demo", *, add_help: bool = True) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=prog, add_help=add_help, allow_abbrev=False)
    first, *others = demos
    more = f"each has options of its own: --model {others[0]} --help" if others else None
    parser.add_argument("--model", choices=demos, default=first, help=more)
    return parser
