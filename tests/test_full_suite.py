"""What `run.py test --quick` leaves out is there."""

from pathlib import Path

import pytest
from full_suite import FILES

TESTS = Path(__file__).parent


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_the_full_suite_adds_exists(name):
    assert (TESTS / name).exists()
    assert (TESTS / name).is_dir() == name.endswith("/")


def test_tests_of_the_full_suite_alone_are_marked(request):
    named = [item for item in request.session.items if item.nodeid.startswith("tests/parity/")]

    assert all(item.get_closest_marker("full") for item in named)
    assert not request.node.get_closest_marker("full")
