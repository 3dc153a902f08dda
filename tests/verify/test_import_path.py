"""Nothing that lies in an inspected folder is ever imported, wherever one stands."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from inspector.verify import machine as interpreter
from inspector.verify.import_path import clean_path, find_program
from inspector.verify.job.commands import environment
from inspector.verify.spec import JobSpec
from tests.conftest import ROOT, SAMPLES, some_fast
from tests.helpers.planted_modules import EARLY, NAMES, PlantedModules

SOURCE = SAMPLES / "hsdp_uneven_2x2"

COMMANDS = {
    "show": ("show", "."),
    "chunks": ("show", "../ckpt", "--json", "--chunks"),
    "deep": ("check", ".", "--deep", "--values"),
    "github": ("check", ".", "--format", "github"),
    "plan": ("plan", ".", "--mesh", "fsdp:2"),
    "diff": ("diff", ".", "../other", "--values"),
    "stats": ("stats", "./"),
    "seal": ("seal", ".", "--output", "../sealed.json"),
    "export": ("export", ".", "../out.safetensors"),
    "repair": ("repair", "."),
    "against": ("plan", ".", "--mesh", "fsdp:2", "--against", "../other"),
    "watch": ("watch", ".", "--once", "--deep", "--settle", "0"),
    "replay": (
        "replay",
        "--no-tui",
        str(ROOT / "tests" / "data" / "runs" / "hsdp_2x4" / "events.jsonl"),
    ),
    "print": ("verify", ".", "--mesh", "fsdp:2", "--print-command", "--events", "../events"),
    "path": (".",),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint to stand in."""
    shutil.copytree(SOURCE, tmp_path / "ckpt")
    shutil.copytree(SOURCE, tmp_path / "other")
    return tmp_path / "ckpt"


def _plant(folder: Path, *more: str) -> PlantedModules:
    return PlantedModules(folder, folder.parent / "marks", [*NAMES, *more])


def _program(folder: Path, how: str) -> list[str]:
    """How the tool is started: the script that pip installs, or as a module."""
    if how == "module":
        return [sys.executable, "-m", "inspector"]
    script = folder.parent / "bin" / "hsdp-inspect"
    script.parent.mkdir(exist_ok=True)
    script.write_text("import sys\nfrom inspector.__main__ import main\nsys.exit(main())\n")
    return [sys.executable, str(script)]


def _run(folder: Path, argv: list[str], timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        argv, cwd=folder, env=env, capture_output=True, text=True, timeout=timeout_s
    )


@pytest.mark.slow
@pytest.mark.parametrize("how", some_fast(["script", "module"], ["script"]))
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_imports_nothing_from_the_checkpoint_it_stands_in(
    folder: Path, command: str, how: str
) -> None:
    # Python itself looks where it stands before `-m` is ours; a script is safe from the start.
    planted = _plant(folder, *(["inspector", *EARLY] if how == "script" else []))
    ran = _run(folder, [*_program(folder, how), *COMMANDS[command]])
    assert planted.imported == []
    # `check` warns of files that no entry names: these are no data files, so it does not.
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_markers_work(folder: Path) -> None:
    planted = _plant(folder)
    assert _run(folder, [sys.executable, "-c", "import json"]).returncode == 1
    assert planted.imported == ["json"]


@pytest.mark.slow
@pytest.mark.torchrun
@pytest.mark.parametrize("how", ["script", "module"])
def test_verifying_imports_nothing_from_the_checkpoint_it_stands_in(folder: Path, how: str) -> None:
    planted = _plant(folder, *(["inspector", *EARLY] if how == "script" else []))
    args = ["verify", ".", "--mesh", "fsdp:2", "--device", "cpu", "--unpickle"]
    ran = _run(folder, [*_program(folder, how), *args], 240)
    assert planted.imported == []
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.startswith("EXACT")


@pytest.mark.slow
@pytest.mark.torchrun
@pytest.mark.parametrize("task", ["check", "seal", "stats"])
def test_readers_import_nothing_from_the_checkpoint_they_stand_in(task: str, folder: Path) -> None:
    planted = _plant(folder, "inspector", *EARLY)
    more = {"check": ["--deep"], "seal": ["--output", "../sealed.json"], "stats": []}[task]
    args = [task, ".", *more, "--nproc-per-node", "2"]
    ran = _run(folder, [*_program(folder, "script"), *args], 240)
    assert planted.imported == []
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.slow
def test_a_repair_imports_nothing_from_the_checkpoint_it_stands_in(folder: Path) -> None:
    """An interpreter of its own writes the metadata, with torch."""
    shutil.rmtree(folder)
    shutil.copytree(SAMPLES / "broken" / "range_short", folder)
    planted = _plant(folder, "inspector", *EARLY)
    ran = _run(folder, [*_program(folder, "script"), "repair", ".", "../out", "--allow-likely"])
    assert planted.imported == []
    assert (folder.parent / "out").is_dir(), ran.stdout + ran.stderr


@pytest.mark.slow
@pytest.mark.torchrun
def test_the_printed_line_imports_nothing_from_the_checkpoint_it_is_run_in(folder: Path) -> None:
    planted = _plant(folder, "inspector", *EARLY)
    args = ["verify", ".", "--mesh", "fsdp:2", "--device", "cpu", "--print-command"]
    printed = _run(folder, [*_program(folder, "script"), *args, "--events", "../events"])
    assert printed.returncode == 0, printed.stderr
    (line,) = [text for text in printed.stdout.splitlines() if " --standalone " in text][:1]
    # The package is found without PYTHONPATH too: it is linked where the line goes.
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    env |= {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    ran = subprocess.run(
        ["sh", "-c", line], cwd=folder, env=env, capture_output=True, text=True, timeout=600
    )
    assert planted.imported == []
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert (folder.parent / "events" / "rank-00001.jsonl").read_text().count('"bye"') == 1


@pytest.mark.slow
def test_the_screen_imports_nothing_from_the_checkpoint_it_stands_in(folder: Path) -> None:
    planted = _plant(folder, "inspector", *EARLY)
    pid, fd = pty.fork()
    if pid == 0:
        os.chdir(folder)
        os.environ |= {"PYTHONPATH": str(ROOT), "TERM": "xterm-256color"}
        os.execv(sys.executable, [*_program(folder, "script"), "."])
    shown = b""
    keys = [b"2", b"3", b"v", b"\x1b", b"q"]
    deadline = time.monotonic() + 300
    next_key = None
    while time.monotonic() < deadline:
        if select.select([fd], [], [], 0.2)[0]:
            try:
                data = os.read(fd, 1 << 16)
            except OSError:
                break
            shown += data
        if next_key is None and b"net3" in shown:
            next_key = time.monotonic() + 2
        # A cursor that blinks writes all the time: so by the clock.
        if next_key is not None and time.monotonic() > next_key:
            # The last two again and again: read at once, as they are by a busy machine, they are
            # another key.
            keys.append(keys[0])
            with contextlib.suppress(OSError):
                os.write(fd, keys.pop(0))
            if len(keys) > 2:
                keys.pop()
            next_key = time.monotonic() + 2
    else:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    os.close(fd)
    assert planted.imported == []
    assert b"net3" in shown
    assert os.waitstatus_to_exitcode(status) == 0


# -- what the children are told -------------------------------------------------------------------


def test_an_interpreter_is_looked_at_from_a_folder_of_our_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = _plant(folder, *EARLY)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", ".", str(folder), str(ROOT)]))
    assert interpreter.examine("", str(folder)).torch != "?"
    assert planted.imported == []


def test_a_relative_interpreter_is_named_from_the_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(sys.executable).parent)
    path = interpreter.examine("./" + Path(sys.executable).name).path
    # A link of a virtual environment has to stay one.
    assert path == sys.executable


@pytest.mark.parametrize(
    ("path", "left"),
    [
        ("", ""),
        (":", ""),
        ("/a::.:/b", "/a:/b"),
        ("lib", "{here}/lib"),
        ("{here}", "{here}"),
        ("ckpt/sub:/a", "/a"),
        ("{here}/ckpt:{here}/ckpt2", "{here}/ckpt2"),
        ("../x/ckpt/..", ""),
    ],
)
def test_what_is_left_of_a_path(path: str, left: str, tmp_path: Path) -> None:
    here = tmp_path / "x"
    (here / "ckpt" / "sub").mkdir(parents=True)
    path, left = (text.format(here=here) for text in (path, left))
    assert clean_path(path, "ckpt", str(here)) == left


def test_the_ranks_are_told_where_to_import_from(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    spec = JobSpec(path=str(folder), mesh="fsdp:2")
    base = {"PYTHONPATH": f":{folder}/lib:/opt/lib", "PYTHON_EXEC": "python"}
    env = environment(spec, "/run/import", "mark", base)
    assert env["PYTHONPATH"] == "/run/import:/opt/lib"
    assert env["PYTHONSAFEPATH"] == "1"
    assert "PYTHON_EXEC" not in env


def test_a_program_that_lies_where_one_stands_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", ":.:/bin")
    assert find_program("nvidia-smi") is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_program("nvidia-smi") == str(program)
