"""A run that is followed: what is judged when, and what is told of it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest
import torch
import torch.distributed.checkpoint as dcp

from inspector.checkpoint.find import search
from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.storage.base import Storage
from inspector.checkpoint.storage.remote.storage import RemoteStorage
from inspector.checks.findings import DeepReport
from inspector.checks.judge import Deep
from inspector.checks.payload.deep import check_deep, read_wanted
from inspector.errors import Cancelled, KilledError
from inspector.watch.watcher import RunLook, RunMemory, Watcher
from tests.conftest import SAMPLES

GOOD = SAMPLES / "run" / "step-100"


class Run:
    """A run's folder, and a watcher of it whose clock is set by hand."""

    def __init__(self, path: Path, deep: Deep | None = None, ahead_s: float = 0) -> None:
        self.path = path
        path.mkdir(exist_ok=True)
        self.clock = 1000.0
        self.memory = RunMemory(str(path), "test")
        self.memory.load()
        self.watcher = Watcher(
            str(path),
            self.memory,
            deep=deep,
            settle_s=30,
            stale_s=600,
            clock=lambda: self.clock,
            now=lambda: time.time() + ahead_s,
        )

    def add(self, step: int, *, finished: bool = True) -> Path:
        folder = self.path / f"step-{step}"
        shutil.copytree(GOOD, folder)
        if not finished:
            (folder / ".metadata").rename(folder / ".metadata.tmp")
        return folder

    def look(self, later_s: float = 0) -> RunLook:
        self.clock += later_s
        return self.watcher.look()


def told(look: RunLook) -> list[tuple[str, str, bool]]:
    return [(step.path, step.verdict, step.resumable) for step in look.told]


def newest(look: RunLook) -> str | None:
    assert look.run is not None
    best = look.run.newest_resumable
    return None if best is None else best.path


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run")


def test_a_step_is_told_once_when_it_stands_still(run: Run) -> None:
    assert run.look() == RunLook(run.look().run)
    run.add(100)
    look = run.look(1)
    assert (told(look), look.waiting, newest(look)) == (
        [],
        (("step-100", "it is being written"),),
        None,
    )
    look = run.look(29)
    assert (told(look), newest(look)) == ([], None)
    look = run.look(1)
    assert (told(look), newest(look)) == ([("step-100", "sound", True)], "step-100")
    look = run.look(100)
    assert (told(look), look.waiting, newest(look), look.exit_code) == ([], (), "step-100", 0)


def test_what_was_there_long_before_needs_no_wait(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", ahead_s=3600)
    run.add(100)
    assert told(run.look()) == [("step-100", "sound", True)]
    # Copied just now, with the times of what was copied.
    run.add(200)
    run = Run(tmp_path / "run")
    look = run.look()
    assert (told(look), newest(look)) == ([], "step-100")
    assert [path for path, _ in look.waiting] == ["step-200"]


def test_a_save_that_goes_on_is_no_damage(run: Run) -> None:
    run.add(100)
    run.look()
    run.look(30)
    folder = run.add(200, finished=False)
    run.look()
    look = run.look(100)
    assert (told(look), look.waiting) == ([], (("step-200", "its save has not finished"),))
    assert (newest(look), look.exit_code) == ("step-100", 0)
    (folder / ".metadata.tmp").rename(folder / ".metadata")
    run.look(100)
    assert told(run.look(30)) == [("step-200", "sound", True)]


def test_a_save_that_was_given_up_is_told(run: Run) -> None:
    run.add(100, finished=False)
    run.look()
    assert told(run.look(599)) == []
    assert told(run.look(1)) == [("step-100", "unreadable", False)]
    run.add(200, finished=False)
    run.look()
    assert told(run.look(60)) == []
    run.add(300)
    # The one after it was finished: nobody writes it any more.
    assert told(run.look()) == [("step-200", "unreadable", False)]
    look = run.look(30)
    assert (told(look), newest(look)) == ([("step-300", "sound", True)], "step-300")


def test_a_step_that_is_saved_anew_is_judged_anew(run: Run) -> None:
    folder = run.add(100)
    run.look()
    run.look(30)
    (folder / "__0_0.distcp").write_bytes(b"short")
    look = run.look()
    assert (told(look), newest(look)) == ([], None)
    # Somebody may be copying it still.
    look = run.look(30)
    assert (told(look), newest(look)) == ([], None)
    assert [path for path, _ in look.waiting] == ["step-100"]
    assert told(run.look(570)) == [("step-100", "damaged", False)]
    shutil.copy(GOOD / "__0_0.distcp", folder)
    run.look()
    look = run.look(30)
    assert (told(look), newest(look)) == ([("step-100", "sound", True)], "step-100")


def test_a_step_that_goes_away_is_gone(run: Run) -> None:
    run.add(100)
    run.add(200)
    run.look()
    assert newest(run.look(30)) == "step-200"
    shutil.rmtree(run.path / "step-200")
    look = run.look(1)
    assert (told(look), look.gone, newest(look)) == ([], ("step-200",), "step-100")
    assert run.look(1).gone == ()


def reading(before: Callable[[Checkpoint], object]) -> Deep:
    """A deep check in whose way something happens."""

    def read(checkpoint: Checkpoint, storage: Storage) -> DeepReport:
        before(checkpoint)
        wanted = read_wanted(deep=True, values=False, manifest=None)
        from inspector.report.progress import PayloadLine

        return check_deep(checkpoint, storage, wanted, lambda: PayloadLine(open(os.devnull, "w")))

    return read


def test_a_step_that_is_deleted_while_it_is_read_is_no_damage(tmp_path: Path) -> None:
    def delete(checkpoint: Checkpoint) -> None:
        for path in sorted(Path(checkpoint.path).iterdir()):
            path.unlink()
            if path.name.endswith(".distcp"):
                return  # The rest goes while the rest is read.

    run = Run(tmp_path / "run", reading(delete))
    run.add(100)
    run.look()
    look = run.look(30)
    assert (told(look), look.waiting) == ([], (("step-100", "it changed while it was read"),))
    shutil.rmtree(run.path / "step-100")
    look = run.look(30)
    assert (told(look), look.gone, look.waiting) == ([], (), ())


def test_each_step_is_read_once_also_after_a_restart(tmp_path: Path) -> None:
    read: list[str] = []
    deep = reading(lambda checkpoint: read.append(Path(checkpoint.path).name))
    run = Run(tmp_path / "run", deep)
    run.add(100)
    folder = run.add(200)
    data = bytearray((folder / "__0_0.distcp").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "__0_0.distcp").write_bytes(data)
    run.look()
    look = run.look(30)
    assert told(look)[0] == ("step-200", "damaged", False)
    assert sorted(read) == ["step-100", "step-200"]
    assert look.num_bytes > 0
    run = Run(tmp_path / "run", deep)
    look = run.look()
    assert (told(look), newest(look), look.num_bytes) == ([], "step-100", 0)
    run.add(300)
    run.look()
    assert told(run.look(30)) == [("step-300", "sound", True)]
    assert sorted(read) == ["step-100", "step-200", "step-300"]


def test_what_was_read_before_it_was_stopped_is_remembered(tmp_path: Path) -> None:
    read: list[str] = []

    def stop_at_the_second(checkpoint: Checkpoint) -> None:
        read.append(Path(checkpoint.path).name)
        if len(read) == 2:
            raise Cancelled("it was stopped")

    run = Run(tmp_path / "run", reading(stop_at_the_second))
    run.add(100)
    run.add(200)
    run.look()
    with pytest.raises(Cancelled):
        run.look(30)
    run.memory.save()
    run = Run(tmp_path / "run", reading(stop_at_the_second))
    # It was judged, but nobody was told.
    assert told(run.look()) == [("step-200", "sound", True)]
    assert told(run.look(30)) == [("step-100", "sound", True)]
    assert read == ["step-200", "step-100", "step-100"]


def test_what_was_waited_for_is_told_after_a_restart(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    save(run.path / "step-10" / "model", "model")
    run.look()
    assert told(run.look(60)) == []
    run = Run(tmp_path / "run")
    assert told(run.look()) == []
    assert told(run.look(601)) == [("step-10", "sound", True)]
    run = Run(tmp_path / "run")
    assert (told(run.look()), told(run.look(601))) == ([], [])
    shutil.rmtree(run.path / "step-10")
    assert Run(tmp_path / "run").look().gone == ("step-10",)


def test_what_is_not_looked_at_is_not_gone(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    run = Run(run.path, reading(lambda checkpoint: read.append(Path(checkpoint.path).name)))
    for step in (100, 200, 300):
        run.add(step)
    run.look()
    assert len(told(run.look(30))) == 3
    with monkeypatch.context() as patched:
        patched.setattr(search, "_MAX_FOLDERS", 2)  # The run's own and that of one step.
        look = run.look(30)
        assert look.is_partial
        assert (told(look), look.gone, look.exit_code) == ([], (), 2)
    look = run.look(30)
    assert (told(look), look.gone, len(read)) == ([], (), 3)


@pytest.fixture
def bucket() -> Iterator[str]:
    """The address of a run with one step in fsspec's memory."""
    fs = fsspec.filesystem("memory")
    fs.put(str(GOOD), "/watched/step-100", recursive=True)
    yield "memory://watched"
    fs.rm("/watched", recursive=True)


def test_what_a_storage_does_not_answer_is_no_verdict(bucket: str) -> None:
    is_away = True

    def deep(checkpoint: Checkpoint, storage: Storage) -> DeepReport:
        assert isinstance(storage, RemoteStorage)
        if is_away:
            storage.calls.failed()
        return reading(lambda checkpoint: None)(checkpoint, storage)

    clock = 1000.0
    memory = RunMemory(bucket, "test")
    watcher = Watcher(bucket, memory, deep=deep, settle_s=30, clock=lambda: clock)
    watcher.look()
    clock += 30
    look = watcher.look()
    assert (told(look), newest(look), look.exit_code) == ([], None, 2)
    assert look.waiting == (("step-100", "the storage did not answer while it was read"),)
    assert list(memory) == []
    is_away = False
    watcher.look()
    clock += 30
    look = watcher.look()
    assert (told(look), look.exit_code) == ([("step-100", "sound", True)], 0)


def test_a_reading_that_is_killed_is_no_verdict_and_ends_nothing(tmp_path: Path) -> None:
    def kill(checkpoint: Checkpoint) -> None:
        if deaths:
            raise KilledError(deaths.pop())

    deaths = ["it was killed"]
    run = Run(tmp_path / "run", reading(kill))
    run.add(100)
    run.look()
    look = run.look(30)
    assert (told(look), look.waiting, look.exit_code) == ([], (("step-100", "it was killed"),), 2)
    run.look()
    assert told(run.look(30)) == [("step-100", "sound", True)]


def test_a_step_that_is_deleted_from_a_bucket_while_it_is_read_is_no_damage(bucket: str) -> None:
    fs = fsspec.filesystem("memory")
    deep = reading(lambda checkpoint: fs.rm("/watched/step-100/__0_0.distcp"))
    clock = 1000.0
    watcher = Watcher(bucket, RunMemory(bucket, "test"), deep=deep, clock=lambda: clock)
    watcher.look()
    clock += 30
    look = watcher.look()
    assert (told(look), look.waiting) == ([], (("step-100", "it changed while it was read"),))


def test_a_run_that_vanishes_comes_back(run: Run) -> None:
    run.add(100)
    run.look()
    run.look(30)
    run.path.rename(run.path.with_name("away"))
    look = run.look(1)
    assert look.run is None
    assert "no such file or folder" in look.problem[0]
    assert look.exit_code == 2
    run.path.with_name("away").rename(run.path)
    look = run.look(1)
    assert (told(look), newest(look)) == ([], "step-100")


def save(folder: Path, *kinds: str) -> None:
    state = {"w": {"exp_avg": torch.ones(4, 4), "step": torch.tensor(1.0)}}
    content = {"model": {"w": torch.ones(4, 4)}, "optimizer": {"state": state}}
    chosen = {kind: content[kind] for kind in kinds}
    dcp.save(chosen, checkpoint_id=str(folder), no_dist=True)


def test_the_model_of_the_first_step_is_not_all_of_it(run: Run) -> None:
    """The optimizer's part may be begun long after the model's is finished."""
    save(run.path / "step-10" / "model", "model")
    run.look()
    look = run.look(60)
    assert told(look) == []
    assert look.waiting == (("step-10", "the rest of it may still be to come"),)
    assert newest(look) is None
    save(run.path / "step-10" / "optimizer", "optimizer")
    run.look()
    look = run.look(30)
    assert (told(look), newest(look)) == ([("step-10", "sound", True)], "step-10")
    # From now on the siblings tell.
    save(run.path / "step-20" / "model", "model")
    run.look()
    look = run.look(60)
    assert (told(look), newest(look)) == ([], "step-10")
    assert [path for path, _ in look.waiting] == ["step-20"]
    look = run.look(600)
    assert (told(look), newest(look)) == ([("step-20", "damaged", False)], "step-10")


def test_weights_alone_are_not_resumed_from_once_siblings_tell(run: Run) -> None:
    """The verdict on an older step changes with what is learnt of the run."""
    save(run.path / "step-10", "model")
    run.look()
    assert told(run.look(600)) == [("step-10", "sound", True)]
    save(run.path / "step-20", "model", "optimizer")
    run.look()
    look = run.look(30)
    assert sorted(told(look)) == [("step-10", "sound", False), ("step-20", "sound", True)]


def test_a_step_that_is_copied_into_place_is_no_damage(run: Run) -> None:
    """`.metadata` first, and a large file that shows when it is there to its end."""
    folder = run.add(100)
    data = folder / "__1_0.distcp"
    data.rename(run.path.parent / "later")
    run.look()
    assert told(run.look(300)) == []
    (run.path.parent / "later").rename(data)
    run.look()
    look = run.look(30)
    assert (told(look), newest(look)) == ([("step-100", "sound", True)], "step-100")
    # Of a step before the newest, nobody copies any more.
    data.unlink()
    run.add(200)
    run.look()
    look = run.look(30)
    assert sorted(told(look)) == [("step-100", "damaged", False), ("step-200", "sound", True)]
