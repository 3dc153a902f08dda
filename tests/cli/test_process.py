"""Each command in a process of its own: what `run_cli` says here is what a user gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from inspector.checks.seal.seal import read_seal
from tests.conftest import SAMPLES, run_cli, run_process

SAMPLE, GAP = SAMPLES / "hsdp_2x2", SAMPLES / "broken" / "chunk_gap"


@pytest.mark.parametrize(
    ("code", "args"),
    [
        (0, [SAMPLE]),
        (0, ["show", SAMPLES / "names_hostile_1", "--json", "--chunks"]),
        (1, ["check", GAP]),
        (1, ["check", SAMPLES / "broken" / "bit_flip", "--deep", "--format", "github"]),
        (2, ["check", SAMPLES / "nowhere"]),
        (0, ["plan", SAMPLE, "--mesh", "fsdp:3", "--json", "--reads"]),
        (0, ["stats", SAMPLE, "--histogram"]),
        (1, ["diff", SAMPLE, SAMPLES / "broken" / "bit_flip", "--values"]),
        (0, ["repair", SAMPLE]),
        (2, ["export", SAMPLE]),
    ],
    ids=lambda value: str(value[0]) if isinstance(value, list) else None,
)
def test_a_process_says_the_same(code: int, args: list[str | Path]) -> None:
    ran = run_process(*args)
    assert ran.code == code, ran
    assert ran == run_cli(*args)


def test_a_process_writes_the_same(tmp_path: Path) -> None:
    written = []
    for run in (run_process, run_cli):
        seal, out = tmp_path / "seal.json", tmp_path / "out"
        ran = run("seal", SAMPLE, "--output", seal), run("export", SAMPLE, out)
        written.append((ran, read_seal(str(seal)).content_sha256, out.read_bytes()))
        seal.unlink()
        out.unlink()
    assert written[0] == written[1]
    assert [ran.code for ran in written[0][0]] == [0, 0]
