"""Where the real checkpoints are, and the command line as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
SAMPLES = ROOT / "sample_ckpts"
GOLDEN = ROOT / "tests" / "data" / "golden"


@dataclass(frozen=True)
class Ran:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


def run_cli(*args: str | Path, env: dict[str, str] | None = None, timeout_s: float = 120) -> Ran:
    """`hsdp-inspect ARGS...` in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "inspector", *map(str, args)],
        capture_output=True,
        text=True,
        errors="surrogateescape",
        timeout=timeout_s,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        cwd=ROOT,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def folders_with_metadata(root: Path) -> Iterator[Path]:
    """Every folder with a global `.metadata` that torch can load under `root`, by name.

    OLMo-core's holds objects of its own, which torch cannot make.
    """
    without = {"broken", "olmo_core_2"}
    return (p.parent for p in sorted(root.rglob(".metadata")) if without.isdisjoint(p.parts))


@pytest.fixture(autouse=True)
def _private_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's own state, cache or configuration."""
    for name in ("XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
