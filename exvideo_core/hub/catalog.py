"""Published files: what each is, where it is published, and its name on disk.

Half of them are published as `model.fp16.safetensors` or `diffusion_pytorch_model.safetensors`, names that say nothing
and collide in one folder. They get a telling local name; the published name is understood wherever a file is looked
for, because people have it from the browser. The files themselves are the families' and come through `registry`.

There is no SHA-256 here: the source announces it over an encrypted connection, and the file is compared with that. A
copy would turn every correction by the publisher into an error, and the files are data that runs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from urllib.parse import quote

from ..errors import DownloadError
from ..weights.kind import Kind

HUGGING_FACE, MODELSCOPE = "huggingface", "modelscope"
SOURCES = {HUGGING_FACE: "Hugging Face", MODELSCOPE: "ModelScope"}  # the first is the default
_PAGES = {HUGGING_FACE: "https://huggingface.co/{}", MODELSCOPE: "https://www.modelscope.cn/models/{}"}


@dataclass(frozen=True, kw_only=True)
class PublishedFile:
    """One published file."""

    key: str  # its name on the command line
    name: str  # its name on disk
    what: str  # a sentence for people
    kind: Kind  # what its tensors must show it to be
    folder: str  # of ComfyUI's models folder
    path: str  # within the repositories
    repositories: dict[str, str] = field(hash=False)  # by source; both have the identical file
    num_bytes: int = 0  # about, 0 where unknown; the source announces the exact size
    license_to_accept: bool = False  # Hugging Face gives it only to people who have accepted its licence

    @property
    def published_name(self) -> str:
        """The file name a browser saves it under."""
        return self.path.rpartition("/")[2]

    @property
    def names(self) -> tuple[str, ...]:
        """Every name it is found by, its own first."""
        return tuple(dict.fromkeys((self.name, self.published_name)))

    @property
    def title(self) -> str:
        """A few words about it."""
        return self.what.partition(":")[0]

    @property
    def url(self) -> str:
        """Download address at Hugging Face, which ComfyUI offers too."""
        return f"{self.page()}/resolve/main/{quote(self.path)}"

    def page(self, source: str = HUGGING_FACE) -> str:
        """The repository's page, for people."""
        return _PAGES[source].format(self.repositories[source])


@dataclass(frozen=True, kw_only=True)
class Group:
    """Files that are of use only together."""

    key: str  # its name on the command line
    title: str  # saved in workflows: never changed
    files: tuple[PublishedFile, ...]
    is_sharded: bool = False  # whether the files are shards of one network


families_groups: Callable[[], Iterable[Group]] = tuple  # `registry` sets it


def groups() -> list[Group]:
    """Every group of every family."""
    return list(families_groups())


def files() -> list[PublishedFile]:
    """Every published file, once."""
    return list(dict.fromkeys(file for group in groups() for file in group.files))


def choices() -> dict[str, tuple[PublishedFile, ...]]:
    """Groups by title, then files by name; a shard is no choice by itself."""
    shards = {file for group in groups() if group.is_sharded for file in group.files}
    single = {file.name: (file,) for file in files() if file not in shards}
    return {group.title: group.files for group in groups()} | single


def keys() -> list[str]:
    """Every name that the command line takes."""
    return [*(group.key for group in groups()), *(file.key for file in files())]


def choose(name: str) -> tuple[PublishedFile, ...]:
    """The files behind a group's title or key, or a file's key or name on disk; DownloadError lists those there are."""
    for group in groups():
        if name in (group.title, group.key):
            return group.files
    for file in files():
        if name in (file.key, file.name):
            return (file,)
    raise DownloadError(f"{name!r} is not one of the published files: {', '.join(keys())}.")


def offered_as(file: PublishedFile) -> tuple[str, str]:
    """The key and the choice that fetch a file; a shard comes with its sisters."""
    for group in groups():
        if group.is_sharded and file in group.files:
            return group.key, group.title
    return file.key, file.name


def find(name: str, folder: str | None = None) -> PublishedFile | None:
    """The published file of this name, its own before a browser's, perhaps only in one of ComfyUI's folders."""
    there = [file for file in files() if folder in (None, file.folder)]
    own = [file for file in there if file.name == name]
    published = [file for file in there if file.published_name == name]
    return next((found[0] for found in (own, published) if len(found) == 1), None)


def size(*files: PublishedFile) -> str:
    """Total size in the sources' unit: 1 GB is 10^9 bytes."""
    known = [file.num_bytes for file in files if file.num_bytes]
    if not known:
        return "size unknown"
    return f"{'over ' * (len(known) < len(files))}{sum(known) / 1e9:.1f} GB"


def hint(name: str) -> str:
    """How to get a missing file, with a space before it; empty for names that nobody has published."""
    file = find(name)
    if file is None:
        return ""
    key, _ = offered_as(file)
    return f" `exvideo download {key}` fetches {file.title} ({size(*choose(key))}) as {file.name}; see {file.page()}."
