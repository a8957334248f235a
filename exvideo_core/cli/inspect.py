"""`exvideo inspect FILE`: what a weight file is, and whether it would load."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from .. import registry
from ..errors import CheckpointError
from ..family import Inspection
from ..nn.nan_check import describe_nonfinite, is_finite
from ..weights.kind import Kind
from ..weights.safetensors_files import WeightFile, open_weights


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser("inspect", help="say what a weight file is, and whether it would load")
    parser.add_argument("file", type=Path, help="a .safetensors file, one shard of several, or a diffusers folder")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    print(inspect(arguments.file))
    return 0


def inspect(path: Path) -> str:
    """Describe a weight file, or a model's folder in diffusers' layout; CheckpointError if nothing can be said."""
    for family in registry.FAMILIES:
        inspection = family.inspection()
        if (path / inspection.folders[0]).is_dir():
            return _inspect_folder(path, inspection)
    return _inspect_file(path)


def _inspect_folder(path: Path, inspection: Inspection) -> str:
    parts = [path / folder for folder in inspection.folders if (path / folder).is_dir()]
    whole = inspection.whole
    if whole is None:
        return "\n".join(map(_inspect_file, parts))
    rows = [_describe(open_weights(part)) for part in sorted(parts) if any(part.glob("*.safetensors*"))]
    rows += [f"{path.name}: {whole.name} in diffusers' layout", _row("loads", _verdict(path, whole))]
    return "\n".join(rows)


def _inspect_file(path: Path) -> str:
    file = open_weights(path)
    found = file.identity
    return "\n".join([_describe(file), _row("loads", _verdict(file, found.kind)), _row("use", found.kind.where)])


def _row(label: str, text: str) -> str:
    return f"  {label:<11} {text}"


def _describe(file: WeightFile) -> str:
    numbers = sum(math.prod(shape) for shape in file.shapes.values())
    formats = sorted({str(dtype).removeprefix("torch.") for dtype in file.dtypes.values()})
    rows = {
        "tensors": f"{len(file):,}",
        "parameters": f"{numbers / 1e6:,.2f} million",
        "format": ", ".join(formats),
        "size": f"{file.num_bytes / 1e9:,.3f} GB",
        "values": _values(file),
    }
    for family in registry.FAMILIES:
        rows |= family.inspection().facts(file)
    return "\n".join([f"{file.name}: {file.identity.what}", *(_row(*row) for row in rows.items())])


def _values(file: WeightFile) -> str:
    """Say whether there is NaN or Inf; every value is read, at about the speed of the disk."""
    broken = {name: describe_nonfinite(weight) for name in file if not is_finite(weight := file[name])}
    if not broken:
        return "no NaN or Inf"
    name, what = next(iter(broken.items()))
    return f"NaN or Inf in {len(broken)} of {len(file)} tensors (first: {name}, {what}); download it again"


def _verdict(source: Path | WeightFile, kind: Kind) -> str:
    try:
        for family in registry.FAMILIES:
            if verdict := family.inspection().load(source, kind):
                return verdict
    except CheckpointError as error:
        return f"no: {error}"
    return "no"
