"""What the documentation tells people to type: commands, Python and YAML, each with the place where it stands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "web" / "docs").rglob("*.md"),
        *(ROOT / "benchmarks").rglob("*.md"),
    ]
)
EXAMPLES = sorted((ROOT / "samples").rglob("*.yaml"))  # their comments name commands, too

# A line or piece of code that begins so is a command. One that merely names a program is none.
PROGRAMS = ("exvideo", "python", "python3", "pip", "torchrun", "git", "cd", "apt-get", "run.py", "comfy")
_COMMAND = re.compile(rf"(\w+=\S+ )*({'|'.join(map(re.escape, PROGRAMS))}|\.venv\S+python) \S")
_FENCE = re.compile(r"^ *```(?P<language>[\w-]*)\n(?P<code>.*?)^ *```", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?<=\n\n)(?:(?: {4}.*)\n)+(?:\n+(?: {4}.*\n)+)*")
_INLINE = re.compile(r"`([^`\n]+)`")
_SHELLS = ("", "bash", "console", "sh", "shell")


@dataclass(frozen=True)
class Snippet:
    """Something to type.

    Attributes:
        text: as it stands there.
        kind: shell, option (a part of a command), or the language of its block.
        page: relative to the repository.
        line: of the page, from 1.
    """

    text: str
    kind: str
    page: str
    line: int

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def snippets(path: Path) -> list[Snippet]:
    """All of a page, in its order."""
    text = path.read_text(encoding="utf-8")
    page = path.relative_to(ROOT).as_posix()
    if path.suffix == ".yaml":
        comments = "\n".join(line.partition("#")[2] for line in text.splitlines())
        return list(_inline(comments, page))
    found = []
    for pattern in (_FENCE, _INDENTED):
        for block in pattern.finditer(text):
            language = block.groupdict().get("language", "")
            code = block.groupdict().get("code") or block.group()
            start = text.count("\n", 0, block.start()) + (2 if pattern is _FENCE else 1)
            found += _of_block(code, language, page, start)
        text = pattern.sub(lambda block: "\n" * block.group().count("\n"), text)  # lines keep their numbers
    return sorted([*found, *_inline(text, page)], key=lambda snippet: snippet.line)


def _of_block(code: str, language: str, page: str, start: int) -> Iterator[Snippet]:
    if language not in _SHELLS:
        yield Snippet(code, language, page, start)
        return
    lines = re.sub(r"\\\n", lambda _: "\0", code).splitlines()
    is_shell = language != "" or any(_COMMAND.match(line.strip().removeprefix("$ ")) for line in lines)
    number = start
    for line in lines:
        bare = re.sub(r"\0\s*", "", line).strip().removeprefix("$ ")
        if is_shell and bare and not bare.startswith("#"):
            yield from (Snippet(part, "shell", page, number) for part in _commands(bare))
        number += 1 + line.count("\0")


def _commands(line: str) -> Iterator[str]:
    """The commands of a line, without what explains it after some spaces."""
    for part in re.split(r" && ", line):
        yield re.split(r"\s{2,}(?=[^\s-])|\s+# ", part)[0].strip()


def _inline(text: str, page: str) -> Iterator[Snippet]:
    for match in _INLINE.finditer(text):
        code, line = match.group(1), text.count("\n", 0, match.start()) + 1
        if _COMMAND.match(code):
            yield from (Snippet(part, "shell", page, line) for part in _commands(code))
        elif re.match(r"--[a-z]", code):
            yield Snippet(code, "option", page, line)


def words(command: str) -> list[str]:
    """A command's words, as a shell reads them."""
    return shlex.split(command)


def all_snippets(*kinds: str) -> list[Snippet]:
    """Of all pages and examples, each text once, at its first place."""
    first: dict[str, Snippet] = {}
    for path in [*PAGES, *EXAMPLES]:
        for snippet in snippets(path):
            if snippet.kind in kinds:
                first.setdefault(snippet.text, snippet)
    return list(first.values())
