"""Where the real checkpoints are, and the command line as a user runs it."""

from __future__ import annotations

import gc
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TextIO

import pytest
from hypothesis import HealthCheck, settings

from inspector.__main__ import main
from inspector.checkpoint.child.process import Server

ROOT = Path(__file__).parents[1]
SAMPLES = ROOT / "sample_ckpts"
GOLDEN = ROOT / "tests" / "data" / "golden"

# What whoever runs the tests chose on their own screen is not to be read, nor changed.
os.environ["XDG_CONFIG_HOME"] = os.devnull
# Or each interpreter that a test starts would compile all that it imports.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# How long an example takes is how busy the machine is.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@dataclass(frozen=True)
class Ran:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


def run_cli(*args: str | Path, env: dict[str, str] | None = None) -> Ran:
    """`hsdp-inspect ARGS...` in this process: its streams are files, and no interpreter starts.

    `run_process` is for what only a process of its own shows.
    """
    words = [str(arg) for arg in args]
    with (
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as err,
        open(os.devnull) as nothing,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.chdir(ROOT)
        for name, value in (env or {}).items():
            patch.setenv(name, value)
        patch.setattr(sys, "argv", ["hsdp-inspect", *words])
        patch.setattr(sys, "stdin", nothing)
        patch.setattr(sys, "stdout", _text_into(out, "strict"))
        patch.setattr(sys, "stderr", _text_into(err, "backslashreplace"))
        reader = Server.current()
        with pytest.raises(SystemExit) as ended:
            main(words)
        if reader is not None:
            reader.__enter__()  # A command that had one of its own left none.
        for stream in (sys.stdout, sys.stderr):
            stream.close()
        return Ran(int(ended.value.code or 0), _text_of(out), _text_of(err))


def _text_into(file: IO[bytes], errors: str) -> TextIO:
    return open(file.fileno(), "w", encoding="utf-8", errors=errors, closefd=False)


def _text_of(file: IO[bytes]) -> str:
    file.seek(0)
    return io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape").read()


def run_process(
    *args: str | Path, env: dict[str, str] | None = None, timeout_s: float = 600
) -> Ran:
    """`hsdp-inspect ARGS...` in a process of its own."""
    return run_python("-m", "inspector", *args, env=env, timeout_s=timeout_s)


def run_python(
    *args: str | Path,
    env: dict[str, str] | None = None,
    timeout_s: float = 600,
    cwd: Path = ROOT,
    check: bool = False,
) -> Ran:
    """`python ARGS...` in a process of its own, which must succeed if it is to be checked."""
    done = subprocess.run(
        [sys.executable, *map(str, args)],
        capture_output=True,
        text=True,
        errors="surrogateescape",
        timeout=timeout_s,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        cwd=cwd,
    )
    assert not check or done.returncode == 0, done.stderr
    return Ran(done.returncode, done.stdout, done.stderr)


def run_torchrun(ranks: int, *args: str | Path, env: dict[str, str] | None = None) -> Ran:
    """`torchrun --standalone ARGS...` with so many ranks on this machine, a thread for each."""
    torchrun = ("-W", "ignore", "-m", "torch.distributed.run", "--standalone")
    env = {"OMP_NUM_THREADS": "1", **(env or {})}
    return run_python(*torchrun, f"--nproc-per-node={ranks}", *args, env=env, timeout_s=900)


def some_fast(cases: Iterable[Any], fast: Collection[Any]) -> list[Any]:
    """Parameters of a matrix, of which some stand for their kind in the fast run.

    Args:
        cases: All of it.
        fast: Those that are not marked `slow`.

    Raises:
        ValueError: One of `fast` is no case.
    """
    cases = list(cases)
    if strange := set(fast) - set(cases):
        raise ValueError(f"no such cases: {strange}")
    return [c if c in fast else pytest.param(c, marks=pytest.mark.slow) for c in cases]


def several_fast(cases: Iterable[tuple[Any, ...]], fast: Collection[Any]) -> list[Any]:
    """`some_fast` where a case is a value for each of several parameters."""
    cases = list(cases)
    return [c if c in fast else pytest.param(*c, marks=pytest.mark.slow) for c in cases]


#: Versions of torch whose golden files stand for all of them in the fast run: the oldest, the
#: newest, and some between which the format changed.
FEW_VERSIONS = frozenset({"1.13.1", "2.2.2", "2.6.0", "2.14.1", "2.15.0"})


def of_few_versions(folders: Iterable[Path]) -> list[Any]:
    """Parameters of samples and golden files; those of most versions are `slow`."""
    folders = list(folders)
    few = [f for f in folders if GOLDEN not in f.parents or not FEW_VERSIONS.isdisjoint(f.parts)]
    return some_fast(folders, few)


def folders_with_metadata(root: Path) -> Iterator[Path]:
    """Every folder with a global `.metadata` that torch can load under `root`, by name.

    OLMo-core's holds objects of its own, which torch cannot make.
    """
    without = {"broken", "olmo_core_2"}
    return (p.parent for p in sorted(root.rglob(".metadata")) if without.isdisjoint(p.parts))


def pytest_configure() -> None:
    """Tests of Ctrl+C start commands that must not inherit that it is ignored.

    It is where pytest runs in the background of a script. A handler of Python's, even one that
    does nothing, is not inherited.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if is_main and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, lambda *_: None)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """What is collected lives to the end: the garbage collector need not go through it."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A torchrun job takes seconds: it is `slow`, unless its mark says that it stands for its kind.

    `@pytest.mark.torchrun(fast=True)` is for very few. They come first: at the end one would keep
    a worker when the others have nothing left to take.
    """
    first = []
    for item in items:
        mark = item.get_closest_marker("torchrun")
        if mark is not None and mark.kwargs.get("fast"):
            first.append(item)
        elif mark is not None:
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: item not in first)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Three for two cores: a test of the screen waits for a third of its time. A job does not."""
    return 3 if config.option.markexpr == "not slow" else 2


@pytest.fixture(autouse=True)
def _private_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's own state, cache or configuration."""
    for name in ("XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))


@pytest.fixture(scope="session")
def _reader() -> Iterator[Server]:
    with Server() as server:
        yield server


@pytest.fixture(autouse=True)
def _one_reader(request: pytest.FixtureRequest, _reader: Server) -> None:
    """Metadata is read in forks of one process, as `check RUN` does: it starts no interpreter.

    `own_readers` marks the tests of that process, and of what one for each file may take.
    """
    if request.node.get_closest_marker("own_readers") is None:
        _reader.__enter__()
    else:
        _reader.__exit__()
