"""`TensorReading`: what is read of one tensor at a time: numbers in view, map, figures, a search.

The rule this module keeps: when the tensor changes, whatever is read of the one before is stopped,
and its answer never comes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from inspector.checkpoint.workers import BytesProgress
from inspector.tui.background import Background, Stop, Work
from inspector.tui.values.work import (
    Trials,
    is_remote,
    read_cells,
    read_heat,
    read_stats,
    save_array,
)
from inspector.values.nonfinite import find_first

if TYPE_CHECKING:
    from textual.widget import Widget

    from inspector.checkpoint.model import Tensor
    from inspector.tui.kit.bars import TaskLine
    from inspector.tui.screens.dialogs import SaveChoice
    from inspector.tui.session import Loaded
    from inspector.tui.values.work import SliceBox

__all__ = ["Answer", "ArraySaving", "Dims", "TensorReading"]

Dims = tuple[int, int] | None
Kind = Literal["cells", "heat", "figures", "found"]

#: More than this is read only when it is asked for: of a local checkpoint, of a remote one.
MAX_UNASKED, MAX_UNASKED_REMOTE = 4 << 30, 64 << 20
# What takes no longer than this shows no progress: it would only flicker.
_QUIET_S = 0.4


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What was read.

    Attributes:
        kind: Of what.
        serial: Of which tensor; see `TensorReading.serial`.
        what: What was asked for, as the asker put it.
        value: `Cells`, `Heat`, a `StatsReport`, an index or None; or an `InspectError`.
    """

    kind: Kind
    serial: int
    what: Any
    value: Any


class TensorReading:
    """Reads one tensor in threads.

    Args:
        owner: The widget for which it is read.
        answered: Called on the event loop with each `Answer`.
    """

    def __init__(self, owner: Widget, answered: Callable[[Answer], object]) -> None:
        #: Rises with every tensor: an answer of another number is of a tensor gone by.
        self.serial = 0
        self._owner = owner
        self._answered = answered
        self._loaded: Loaded | None = None
        self._tensor: Tensor | None = None
        self._trials: Trials | None = None
        self._readers = {kind: self._reader(kind) for kind in ("cells", "heat", "figures", "found")}
        self._title = ""
        self._progress: BytesProgress | None = None

    def _reader(self, kind: Any) -> Background[tuple[int, Any]]:
        def answered(key: tuple[int, Any], value: Any) -> None:
            serial, what = key
            self._answered(Answer(kind, serial, what, value))

        return Background(self._owner, answered, kind)

    def begin(self, loaded: Loaded | None, tensor: Tensor | None) -> None:
        """Turn to a tensor (or to none): what is read of the one before is dropped."""
        self.serial += 1
        self._loaded, self._tensor = loaded, tensor
        self.forget_problems()
        for reader in self._readers.values():
            reader.drop()

    def forget_problems(self) -> None:
        """Try anew what could not be read."""
        loaded, tensor = self._loaded, self._tensor
        self._trials = None if loaded is None or tensor is None else Trials(loaded, tensor)

    @property
    def is_small(self) -> bool:
        """Whether it is so little that it may be read without being asked for."""
        if self._loaded is None or self._tensor is None:
            return False
        most = MAX_UNASKED_REMOTE if is_remote(self._loaded) else MAX_UNASKED
        return self._tensor.num_bytes <= most

    # What is read.

    def _ask(self, kind: Kind, what: Hashable, work: Work) -> None:
        self._readers[kind].ask((self.serial, what), work)

    def cells(self, dims: Dims, leading: tuple[int, ...], rows: range, columns: range) -> None:
        loaded, trials = self._loaded, self._trials
        if loaded is None or trials is None:
            return

        def work(stop: Stop) -> Any:
            return read_cells(loaded, trials, dims, leading, rows, columns, stop)

        self._ask("cells", (dims, leading, rows, columns), work)

    def heat(self, dims: Dims, leading: tuple[int, ...], size: tuple[int, int]) -> None:
        loaded, trials = self._loaded, self._trials
        if loaded is None or trials is None:
            return

        def work(stop: Stop) -> Any:
            return read_heat(loaded, trials, dims, leading, size, stop)

        self._ask("heat", (dims, leading), work)

    def figures(self) -> None:
        """Read all of it, and sum it up."""
        loaded, tensor = self._loaded, self._tensor
        if loaded is None or tensor is None:
            return

        def tell(progress: BytesProgress) -> None:
            self._progress = progress

        self._start("reading")
        self._ask("figures", None, lambda stop: read_stats(loaded, tensor, tell, stop))

    def find(self, number: float | int, title: str) -> None:
        loaded, tensor = self._loaded, self._tensor
        if loaded is None or tensor is None:
            return

        def work(stop: Stop) -> Any:
            def progress(num_done: int, num_bytes: int) -> bool:
                self._progress = BytesProgress(num_done, num_bytes)
                return stop()

            return find_first(loaded.checkpoint, loaded.storage, tensor, number, progress=progress)

        self._start(title)
        self._ask("found", None, work)

    # How far it is.

    def _start(self, title: str) -> None:
        self._title, self._progress = title, None

    @property
    def is_busy(self) -> bool:
        """Whether figures are being worked out, or a number is looked for."""
        return self._readers["figures"].is_busy or self._readers["found"].is_busy

    def stop(self) -> bool:
        """Stop what `is_busy` tells of; False if there is nothing."""
        is_busy = self.is_busy
        for kind in ("figures", "found"):
            self._readers[kind].stop()
        return is_busy

    def show_task(self, line: TaskLine, hint: str) -> bool:
        """Show how far it is, and how to stop it; False if there is nothing to show."""
        figures, found = self._readers["figures"], self._readers["found"]
        reader = found if found.is_busy else figures
        return _show_task(line, self._title, self._progress, reader, hint)


class ArraySaving:
    """Writes a tensor to a file in a thread, whatever is looked at meanwhile.

    Args:
        owner: The widget for which it is written.
        answered: Called on the event loop with the path, and a sentence or the error.
    """

    def __init__(self, owner: Widget, answered: Callable[[str, Any], object]) -> None:
        self._background: Background[str] = Background(owner, answered, "saving")
        self._progress: BytesProgress | None = None

    def save(self, loaded: Loaded, tensor: Tensor, choice: SaveChoice, box: SliceBox) -> None:
        def tell(done: int, total: int) -> None:
            self._progress = BytesProgress(done, total)

        def work(stop: Stop) -> str:
            return save_array(loaded, tensor, choice, box, tell, stop)

        self._progress = None
        self._background.ask(choice.path, work)

    @property
    def is_busy(self) -> bool:
        return self._background.is_busy

    def stop(self) -> bool:
        """Stop it; False if there is nothing."""
        is_busy = self.is_busy
        self._background.stop()
        return is_busy

    def show_task(self, line: TaskLine, hint: str) -> bool:
        """Show how far it is, and how to stop it; False if there is nothing to show."""
        return _show_task(line, "writing", self._progress, self._background, hint)


def _show_task(
    line: TaskLine,
    title: str,
    progress: BytesProgress | None,
    background: Background[Any],
    hint: str,
) -> bool:
    """Show how far it is, unless it has only just begun."""
    if not background.is_busy or time.monotonic() - background.asked_s < _QUIET_S:
        return False
    line.show(title, progress, background, hint)
    return True
