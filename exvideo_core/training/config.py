"""Configurations of training runs: read from YAML, checked, written out with every default, compared on resuming.

The result of a run does not depend on the number of GPUs: `batch_size` counts the clips of a step on all of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin

from pydantic import ValidationError

from ..errors import ExVideoError
from ..files import quoted, read_small
from .recipe import TrainingRecipe
from .settings import Section, Training

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_MOST_BYTES = 30_000  # of a configuration; one with every default has 4,000
_DEEPEST = 10  # levels of sections, lists and maps
_MOST_PROBLEMS = 6  # that a message tells
_LIMITS = {  # pydantic's kinds of errors in our words
    "greater_than_equal": "at least {ge:g}",
    "greater_than": "above {gt:g}",
    "less_than_equal": "at most {le:g}",
    "less_than": "below {lt:g}",
    "finite_number": "finite",
}
Config = TypeVar("Config", bound=Training)
Recipes = Mapping[str, Callable[[], TrainingRecipe[Any]]]  # by target, imported when asked for


def read_config(path: Path, recipes: Recipes) -> Training:
    """Read and check a YAML file; ExVideoError with every wrong or unknown key and what would be right."""
    try:
        text = read_small(path, _MOST_BYTES)
    except (OSError, UnicodeDecodeError) as error:
        raise ExVideoError(f"the configuration {path} cannot be read: {error}.") from error
    given = _parsed_yaml(text, path.name)
    if not isinstance(given, Mapping) or given.get("target") not in list(recipes):
        lines = [f"'target: {name}'" for name in recipes]
        raise ExVideoError(
            f"{path.name} needs a line {' or '.join(lines)}. "
            f"`exvideo train --init {next(iter(recipes))}` writes a configuration with every default."
        )
    return parse_config(given, recipes[given["target"]]().config, path.name)


def _parsed_yaml(text: str, source: str) -> object:
    import yaml

    try:
        depth = 0
        for event in yaml.parse(text, yaml.SafeLoader):
            # nested aliases expand to more than any memory holds
            if isinstance(event, yaml.AliasEvent):
                raise ExVideoError(f"{source} has aliases (*name), which are not read here: write the values out.")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST:
                raise ExVideoError(f"{source} is nested {depth} levels deep; a configuration has sections with values.")
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ExVideoError(f"{source} is not YAML: {quoted(str(error))}.") from error
    except (ValueError, LookupError, ArithmeticError, AttributeError, TypeError) as error:
        # the parser's own, for dates and numbers that do not exist
        raise ExVideoError(f"{source} has a value that YAML cannot read ({quoted(str(error))}).") from error


def parse_config(given: Mapping[str, Any], kind: type[Config], source: str = "the configuration") -> Config:
    """Check sections and their values, as a file has them; ExVideoError as from `read_config`."""
    try:
        filled = _filled(kind, json.loads(json.dumps(given)))
    except TypeError as error:  # YAML knows dates and bytes, JSON does not
        raise ExVideoError(f"{source}: {quoted(str(error))}; write it in quotes.") from error
    if problems := list(_problems(kind, dict(filled))):
        shown = [quoted(problem) for problem in problems[:_MOST_PROBLEMS]]
        more = [f"and {len(problems) - len(shown)} more"] if len(problems) > len(shown) else []
        raise ExVideoError(f"{source}: {'; '.join([*shown, *more])}.")
    return kind.model_validate_json(json.dumps(filled))


def _filled(kind: type[Training], given: Mapping[str, Any]) -> dict[str, Any]:
    """Sections that are given in part get the target's own defaults, not the shared ones."""
    defaults = kind().model_dump()  # type: ignore[call-arg]  # a family's have defaults for every section
    return {
        key: defaults[key] | value if isinstance(value, Mapping) and isinstance(defaults.get(key), dict) else value
        for key, value in given.items()
    }


def _problems(kind: type[Training], filled: dict[str, Any]) -> Iterator[str]:
    """Every problem of every field, then what is wrong with the others together."""
    try:
        # JSON's rules, which are not strict: YAML takes 1e-5 for text
        kind.model_validate_json(json.dumps(filled))
    except ValidationError as error:
        wrong = error.errors()
        for each in wrong:
            yield from _sentences(kind, each)
        if rest := _without(filled, wrong):
            yield from _problems(kind, rest)


def _without(filled: dict[str, Any], wrong: Sequence[ErrorDetails]) -> dict[str, Any] | None:
    """The configuration with defaults for wrong fields; None if no field is to blame."""
    rest = {key: dict(value) if isinstance(value, dict) else value for key, value in filled.items()}
    for section, *keys in (each["loc"] for each in wrong if each["loc"]):
        if keys:
            rest[str(section)].pop(str(keys[0]), None)
        else:
            rest.pop(str(section), None)
    return rest if rest != filled else None


def _sentences(kind: type[Training], error: ErrorDetails) -> Iterator[str]:
    name, context = ".".join(map(str, error["loc"])), error.get("ctx", {})
    value = json.dumps(error["input"])
    shown = value if len(value) < 60 else f"{value[:60]}..."
    if error["type"] == "value_error":  # our own validators'
        yield from (f"{name} {problem}".strip() for problem in context["error"].args)
    elif error["type"] == "extra_forbidden":
        known = kind().model_dump()  # type: ignore[call-arg]  # likewise
        for section in error["loc"][:-1]:
            known = known[str(section)]
        yield f"{name} is unknown; known are {', '.join(known)}"
    elif limit := _LIMITS.get(error["type"]):
        yield f"{name} must be {limit.format(**context)}, not {shown}"
    else:
        yield f"{name}: {error['msg']}, not {shown}"


def free_keys(config: Training) -> set[str]:
    """Settings that may change when a run is resumed: how long it runs and what it writes."""
    free = {"run.name", "run.output", "run.save_every", "run.keep_last", "run.held_out_every", "run.validate_every"}
    free |= {"run.export_format", "run.tensorboard", "run.engine", "data.cache", "data.max_bad_share"}
    # where the learning rate decays, it depends on the number of steps
    return free | {"run.steps"} if config.optimizer.hold == 1 else free


def fingerprint(config: Training) -> str:
    """Hash of all settings that decide the course of a run."""
    plain = config.model_dump()
    for section, _, name in (key.partition(".") for key in free_keys(config)):
        del plain[section][name]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def write_template(kind: type[Training]) -> str:
    """A configuration file with every default and description."""
    lines = [f"# {kind.__doc__} Run it: exvideo train CONFIG.yaml"]
    for name, value in kind():  # type: ignore[call-arg]  # likewise
        if isinstance(value, Section):
            lines += [f"{name}:", *(f"  {_template_line(type(value), key, kept)}" for key, kept in value)]
        else:
            lines.append(_template_line(kind, name, value))
    return "\n".join(lines) + "\n"


def _template_line(kind: type[Section], name: str, value: object) -> str:
    field = kind.model_fields[name]
    choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
    listed = f"{' or '.join(choices)}; " if len(choices) > 1 else ""
    # JSON is YAML
    return f"{name}: {json.dumps(value)}  # {listed}{field.description}"
