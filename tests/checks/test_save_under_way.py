"""A real `dcp.save` that is held at each of its moments, while its folder is looked at."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from inspector.watch.memory import RunMemory
from torch.distributed.checkpoint.filesystem import FileSystem

from inspector.checks.judge import check
from inspector.watch.watcher import Watcher
from tests.conftest import run_cli

STATE = {f"w{i}": torch.arange(1000.0) + i for i in range(9)}
#: What is only true once nobody writes any more.
TOO_EARLY = ("never finished", "do: rename", "hint: rename", "do: the write", "do: copy the file")


class Moment:
    """A place in the save: it waits there until it is let go."""

    def __init__(self) -> None:
        self.reached, self.go = threading.Event(), threading.Event()

    def wait(self) -> None:
        self.reached.set()
        assert self.go.wait(120)


class Stream:
    """A data file that stops after a few writes."""

    def __init__(self, stream: Any, moment: Moment) -> None:
        self._stream, self._moment, self._left = stream, moment, 20

    def write(self, data: bytes) -> int:
        num = self._stream.write(data)
        self._left -= 1
        if self._left == 0:
            self._stream.flush()
            self._moment.wait()
        return int(num)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Held(FileSystem):
    def __init__(self) -> None:
        self.halfway, self.at_the_end = Moment(), Moment()

    @contextmanager
    def create_stream(self, path: Any, mode: str) -> Iterator[Any]:
        with super().create_stream(path, mode) as stream:
            is_data = str(path).endswith(".distcp")
            yield Stream(stream, self.halfway) if is_data else stream

    def rename(self, path: Any, new_path: Any) -> None:
        self.at_the_end.wait()
        super().rename(path, new_path)


@contextmanager
def saving(folder: Path) -> Iterator[Held]:
    """A save that is under way; at the end of the block it is over, and went well."""
    writer = dcp.FileSystemWriter(folder, single_file_per_rank=True)
    writer.fs = held = Held()
    failed: list[BaseException] = []

    def save() -> None:
        try:
            dcp.save(STATE, storage_writer=writer, no_dist=True)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=save)
    thread.start()
    try:
        assert held.halfway.reached.wait(120)
        yield held
    finally:
        held.halfway.go.set()
        held.at_the_end.go.set()
        thread.join()
    assert not failed


def said(run: Path) -> str:
    """What is said of the step that is written, by the commands and by one who watches."""
    step = run / "step-1"
    ran = [run_cli("check", step), run_cli("show", step), run_cli("check", run)]
    look = Watcher(str(run), RunMemory(str(run), "test"), settle_s=3600).look()
    assert look.waiting == (("step-1", "it is being written"),) and not look.told
    return "\n".join(each.out + each.err for each in ran)


def test_a_first_save(tmp_path: Path) -> None:
    step = tmp_path / "step-1"
    with saving(step) as held:
        half = said(tmp_path)
        assert "a save is running or broke off" in half
        held.halfway.go.set()
        assert held.at_the_end.reached.wait(120)
        whole = said(tmp_path)
        assert "the save has not finished" in whole and "if no save is running any more" in whole
    assert not [words for words in TOO_EARLY if words in half + whole]
    assert check(str(step)).verdict == "sound"


def test_a_save_over_an_earlier_one(tmp_path: Path) -> None:
    step = tmp_path / "step-1"
    dcp.save(STATE, checkpoint_id=step, no_dist=True)
    with saving(step) as held:
        half = said(tmp_path)
        assert "unless a save or a copy is still running, it was cut short" in half
        held.halfway.go.set()
        assert held.at_the_end.reached.wait(120)
        whole = said(tmp_path)  # torch has taken the old .metadata away.
        assert "if no save is running any more" in whole
    assert not [words for words in TOO_EARLY if words in half + whole]
    assert check(str(step)).findings == ()
