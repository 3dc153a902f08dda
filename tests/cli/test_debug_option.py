"""`--debug` is an option wherever an option may stand, and the value of none."""

from __future__ import annotations

import pytest

from inspector.__main__ import _without_debug
from tests.conftest import SAMPLES, run_process


@pytest.mark.parametrize(
    ("given", "kept", "is_asked"),
    [
        ("show X --debug", "show X", True),
        ("--debug show X", "show X", True),
        ("X --debug", "X", True),
        ("show X --filter --debug", "show X --filter --debug", False),
        ("show X --filter --debug --debug", "show X --filter --debug", True),
        ("show X --filter --filter --debug", "show X --filter --filter", True),
        ("show X --filter=--debug", "show X --filter=--debug", False),
        ("show --json --debug X", "show --json X", True),
        ("show -- --debug", "show -- --debug", False),
        ("--debug show -- --debug", "show -- --debug", True),
        (
            "verify X --report --debug --mesh fsdp:2",
            "verify X --report --debug --mesh fsdp:2",
            False,
        ),
        ("show X --filter", "show X --filter", False),
        ("--debug", "", True),
    ],
)
def test_where_it_is_the_option(given: str, kept: str, is_asked: bool) -> None:
    assert _without_debug(given.split()) == (kept.split(), is_asked)


def test_a_filter_of_that_name_filters() -> None:
    ran = run_process("show", SAMPLES / "hsdp_2x2", "--filter", "--debug")
    assert "no name matches the filter" in ran.err
    ran = run_process("show", SAMPLES / "hsdp_2x2", "--filter", "nothing-has-this", "--debug")
    assert "no name matches the filter" in ran.err
    assert run_process("show", SAMPLES / "none", "--debug").err.startswith("Traceback")
