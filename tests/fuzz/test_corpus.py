"""Malformed files of every kind: each reader answers with a sentence, soon, in little memory, and does nothing else."""

import sys

import pytest

from .seeds import CORPUS

if sys.platform == "win32":
    pytest.skip("the limits of time and memory are Unix's", allow_module_level=True)

from .limits import limited
from .readers import READERS, read

FILES = sorted(path for path in CORPUS.rglob("*") if path.is_file())


@pytest.mark.filterwarnings("ignore")  # PIL's and torch's, of what is odd in a file
@pytest.mark.parametrize(
    ("reader", "file"),
    [(reader, file) for file in FILES for reader in READERS if file.parent.name == reader]
    + [("training_videos", file) for file in FILES if file.parent.name == "videos"],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_malformed_file_is_refused_in_words(tmp_path, reader, file):
    with limited():
        refusals = read(reader, file.read_bytes(), tmp_path / "input")

    assert bool(refusals) != file.name.startswith("ok_"), refusals


def test_corpus_has_files_for_every_reader_and_is_small():
    assert {file.parent.name for file in FILES} | {"training_videos"} == set(READERS)
    assert sum(file.stat().st_size for file in FILES) < 1_000_000
