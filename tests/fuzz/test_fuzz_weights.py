"""A short run of the fuzzer of each reader of weights and texts; test_fuzz_videos.py has the others."""

import os

import pytest

from .run import fuzz, is_possible

SECONDS = int(os.environ.get("EXVIDEO_FUZZ_SECONDS", "60"))


@pytest.mark.skipif(not is_possible(), reason="atheris has wheels for Linux and Python 3.11 to 3.13")
@pytest.mark.parametrize("reader", ["weights", "lora", "folders", "records"])
def test_fuzzer_finds_nothing(reader, tmp_path):
    result = fuzz(reader, SECONDS, kept=tmp_path)

    assert not result.finding, result.finding
    assert result.executions > 5 * SECONDS
    assert result.edges > 50
