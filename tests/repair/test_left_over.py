"""What a repair that was killed leaves: no step of a run, and gone at the next one."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path

from tests.conftest import SAMPLES, run_cli


def test_what_a_killed_repair_left_is_removed_and_that_of_a_running_one_stays(
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    shutil.copytree(SAMPLES / "run" / "step-200", run / "step-200")
    broken = Path(shutil.copytree(SAMPLES / "hsdp_2x2", tmp_path / "broken"))
    (broken / ".metadata").rename(broken / ".metadata.tmp")
    left, other, held = (
        run / f".step-300.{word}.repair-tmp" for word in ("0123abcd", "notes", "89abcdef")
    )
    for folder in (left, other, held):
        shutil.copytree(broken, folder)
    descriptor = os.open(held, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    ran = run_cli("check", str(run), "--json")
    assert ran.code == 0 and "repair-tmp" not in ran.out
    ran = run_cli("repair", str(broken), str(run / "step-300"))
    assert ran.code == 0, ran.err
    assert not left.exists() and other.exists() and held.exists()
    os.close(descriptor)
    assert run_cli("check", str(run / "step-300"), "--deep").code == 0
