"""A short run of the fuzzer of each reader of configurations, pictures and videos."""

import os

import pytest

from .run import fuzz, is_possible

pytestmark = [
    pytest.mark.fuzz,
    pytest.mark.skipif(not is_possible(), reason="atheris has wheels for Linux and Python 3.11 to 3.13"),
]
SECONDS = int(os.environ.get("EXVIDEO_FUZZ_SECONDS", "20"))


@pytest.mark.parametrize("reader", ["configs", "pictures", "videos", "training_videos"])
@pytest.mark.parametrize("seconds", [SECONDS, pytest.param(60, marks=pytest.mark.slow)])
def test_fuzzer_finds_nothing(reader, seconds, tmp_path):
    result = fuzz(reader, seconds, kept=tmp_path)

    assert not result.finding, result.finding
    assert result.executions > 0.5 * seconds  # ffmpeg is a process of its own for each
    assert result.edges > 50
