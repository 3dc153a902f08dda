"""A disk without room costs the recording of a job, not its verdict."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from inspector.verify.events import EventWriter, decode, rank_file
from inspector.verify.job.run_folder import RunFolder
from tests.conftest import ROOT

resource = pytest.importorskip("resource")

# A small file system of our own: mounted where nobody else sees it.
_MOUNT = ["unshare", "--map-root-user", "--mount"]
_SCRIPT = """
mount -t tmpfs -o size={size} none "$XDG_STATE_HOME" || exit 99
{fill}
exec "$@"
"""


def _on_small_disk(
    folder: Path, size: str, fill: str, *argv: str
) -> subprocess.CompletedProcess[str]:
    if not shutil.which("unshare"):
        pytest.skip("no unshare")
    state = folder / "state"
    state.mkdir()
    temporary = folder / "tmp"
    temporary.mkdir()
    env = {
        **os.environ,
        "XDG_STATE_HOME": str(state),
        "TMPDIR": str(temporary),
        "PYTHONPATH": str(ROOT),
        "FAKE_WORKER": "1",
        "FAKE_RANK": "ok",
    }
    script = _SCRIPT.format(size=size, fill=fill)
    ran = subprocess.run(
        [*_MOUNT, "sh", "-c", script, "sh", sys.executable, *argv],
        env=env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    if ran.returncode == 99 or "unshare" in ran.stderr:
        pytest.skip("nothing can be mounted here")
    return ran


_RUN = """
import json, sys
from tests.verify.jobs import make_job, run_job
job = make_job(2)
events = run_job(job)
print(json.dumps(job.result))
print(job.folder.is_kept, job.folder.path)
"""


@pytest.mark.torchrun
@pytest.mark.parametrize("fill", ["", 'head -c 60K /dev/zero > "$XDG_STATE_HOME/full" 2>/dev/null'])
def test_a_full_state_disk_costs_the_recording_alone(tmp_path: Path, fill: str) -> None:
    ran = _on_small_disk(tmp_path, "64k", fill, "-c", _RUN)
    assert ran.returncode == 0, ran.stderr
    result, where = ran.stdout.splitlines()
    assert json.loads(result)["verdict"] == "exact"
    is_kept, path = where.split(" ", 1)
    assert is_kept == "False"
    assert Path(path).parent == tmp_path / "tmp"


@pytest.mark.torchrun
def test_room_enough_keeps_the_recording(tmp_path: Path) -> None:
    ran = _on_small_disk(tmp_path, "200m", "", "-c", _RUN)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[1].startswith("True ")


@pytest.mark.torchrun
def test_a_disk_that_fills_up_under_the_recording(tmp_path: Path) -> None:
    """The recording's own file fails, at every write and when it is closed."""
    run = _RUN.replace(
        "events = run_job(job)",
        "import inspector.verify.job.launcher as l\n"
        "start = l.Job._start_guard\n"
        "def full(self):\n"
        "    self._recording.close()\n"
        "    self._recording = open('/dev/full', 'ab')\n"
        "    return start(self)\n"
        "l.Job._start_guard = full\n"
        "events = run_job(job)",
    )
    ran = _on_small_disk(tmp_path, "200m", "", "-c", run)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout.splitlines()[0])["verdict"] == "exact"


def _events(folder: Path) -> list[dict[str, object]]:
    lines = rank_file(folder, 0).read_bytes().splitlines()
    found = [decode(line) for line in lines]
    assert None not in found
    return [event for event in found if event is not None]


def test_what_was_found_while_the_disk_was_full_is_told_afterwards(tmp_path: Path) -> None:
    writer = EventWriter(tmp_path, 0)
    writer.send("hello", pid=1)
    size = rank_file(tmp_path, 0).stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Python ignores SIGXFSZ: a write beyond it fails, or is cut short, as on a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 40, before[1]))
    try:
        writer.send("tensor", fqn="a", verdict="DIFFER")
        writer.send("heartbeat")
        writer.send("tensor", fqn="b", verdict="EXACT")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert rank_file(tmp_path, 0).stat().st_size == size + 40
    writer.send("bye")
    told = [(event["event"], event.get("fqn")) for event in _events(tmp_path)]
    assert told == [("hello", None), ("tensor", "a"), ("tensor", "b"), ("bye", None)]
    writer.close()


def test_a_state_folder_that_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "state").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    run = RunFolder.create("step-1")
    assert not run.is_kept
    assert run.path.parent == tmp_path
