"""The benchmarks know what they measure: without running them."""

from __future__ import annotations

import importlib
import sys
from functools import reduce
from types import ModuleType

import pytest

from tests.conftest import ROOT


@pytest.fixture(scope="module")
def benchmarks() -> dict[str, ModuleType]:
    """The scripts that are asked here; `open` hides a builtin only among them."""
    names = ("all", "figures", "stages")
    folder = str(ROOT / "benchmarks")
    before = {*sys.modules}
    sys.path.insert(0, folder)
    try:
        return {name: importlib.import_module(name) for name in names}
    finally:
        sys.path.remove(folder)
        for name in {*sys.modules} - before:
            if str(getattr(sys.modules[name], "__file__", "")).startswith(folder):
                del sys.modules[name]


def test_each_stage_of_opening_is_a_part_of_the_child(benchmarks: dict[str, ModuleType]) -> None:
    for stage, parts in benchmarks["stages"].STAGES.items():
        for module, name in parts:
            owner = importlib.import_module(f"inspector.checkpoint.{module}")
            assert callable(reduce(getattr, name.split("."), owner)), stage


def test_each_subject_is_measured_by_a_script_and_told_in_a_row(
    benchmarks: dict[str, ModuleType],
) -> None:
    subjects = benchmarks["all"].SUBJECTS
    figures = benchmarks["figures"]
    assert subjects.keys() == figures.SCRIPTS.keys() == figures.ROWS.keys()
    for name in subjects:
        script = ROOT / "benchmarks" / f"{figures.SCRIPTS[name]}.py"
        assert f'"{name}": ' in script.read_text(), name
