"""The project's own promises: imports, commands, README."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from inspector.__main__ import COMMANDS
from inspector.checks.findings import CODES
from inspector.checks.plan.against import PLAN_CODES
from inspector.cli.group import cli
from tests.conftest import ROOT, SAMPLES, run_python

SAMPLE = SAMPLES / "hsdp_2x4"


def test_the_import_contracts_hold() -> None:
    done = run_python("-c", "from importlinter.cli import lint_imports_command as c; c()")
    assert done.code == 0, done.out + done.err


@pytest.mark.parametrize("module", ["checkpoint", "layout", "checks", "report", "errors"])
def test_what_opens_a_checkpoint_imports_neither_torch_nor_textual(module: str) -> None:
    script = (
        "import importlib, pkgutil, sys\n"
        f"root = importlib.import_module('inspector.{module}')\n"
        "for m in pkgutil.walk_packages(getattr(root, '__path__', []), root.__name__ + '.'):\n"
        "    if not m.name.endswith('.child'): importlib.import_module(m.name)\n"
        "bad = {m.split('.')[0] for m in sys.modules} & {'torch', 'textual', 'fsspec'}\n"
        "assert not bad, bad\n"
    )
    run_python("-c", script, check=True)


@pytest.mark.parametrize(
    "args",
    [
        (SAMPLE,),
        ("show", SAMPLE),
        ("show", SAMPLE, "--json", "--chunks"),
        ("check", SAMPLE),
        ("check", SAMPLE, "--deep", "--values"),
        ("diff", SAMPLE, SAMPLES / "fsdp_8", "--values"),
    ],
    ids=lambda args: " ".join(str(arg) for arg in args if not isinstance(arg, Path)),
)
def test_what_only_looks_imports_neither_torch_nor_textual(args: tuple[str | Path, ...]) -> None:
    script = (
        "import sys, inspector.__main__\n"
        "try:\n    inspector.__main__.main(sys.argv[1:])\n"
        "except SystemExit as done:\n    assert done.code == 0, done.code\n"
        "bad = {m.split('.')[0] for m in sys.modules} & {'torch', 'textual', 'fsspec'}\n"
        "assert not bad, bad\n"
    )
    run_python("-c", script, *args, check=True)


def test_the_child_process_needs_the_standard_library_alone() -> None:
    package = ROOT / "inspector" / "checkpoint"
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import inspector.checkpoint.pickle.extract, inspector.checkpoint.pickle.gate\n"
    )
    run_python("-I", "-S", "-c", script, str(package.parents[1]), check=True)


def test_the_fast_way_to_the_screen_knows_every_command() -> None:
    assert frozenset(cli.list_commands(click.Context(cli))) == COMMANDS


def test_the_readme_names_every_command_and_only_pictures_that_are_there() -> None:
    readme = (ROOT / "README.md").read_text()
    context = click.Context(cli)
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        if not command.hidden:
            assert f"hsdp-inspect {name}" in readme, name
    pictures = re.findall(r"\]\((docs/[^)]+)\)", readme)
    assert pictures
    for picture in pictures:
        assert (ROOT / picture).is_file(), picture


def test_ci_runs_the_test_command_of_the_readme() -> None:
    commands = re.findall(r"```sh\n(.*?)\n```", (ROOT / "README.md").read_text(), re.S)
    assert any(
        "pytest" in command and command in (ROOT / ".ci/run").read_text() for command in commands
    )


def test_every_finding_code_is_explained() -> None:
    rows = re.findall(
        r"^\| `([a-z0-9-]+)` \| (\w+) \|", (ROOT / "docs" / "codes.md").read_text(), re.M
    )
    assert dict(rows) == {**CODES, **PLAN_CODES}
