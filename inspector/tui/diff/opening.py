"""Comparing in the background: `OpeningPair` reads both sides, `ComparingValues` their values.

It imports nothing of Textual, so that it can start while Textual is still being imported.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from inspector.checkpoint.child.isolated import Child, prefetch
from inspector.checkpoint.find.locate import locate_one, read_checkpoint
from inspector.checkpoint.text import printable
from inspector.errors import Cancelled, UsageError
from inspector.tui.session import Loaded, Loading, Outcome

if TYPE_CHECKING:
    from inspector.diff.model import Diff, TensorDiff, Tolerance
    from inspector.diff.structure import Structure
    from inspector.diff.values import DiffProgress

__all__ = ["ComparingValues", "OpeningPair", "PairOf"]


@dataclass(frozen=True, slots=True, eq=False)
class PairOf:
    """What is to be compared, and how.

    Attributes:
        a, b: Paths, or what was read already.
        filter_text: Only names that it selects.
        tolerance: What counts as close; None for what is usual.
    """

    a: str | Loaded
    b: str | Loaded
    filter_text: str = ""
    tolerance: Tolerance | None = None

    @property
    def paths(self) -> tuple[str, str]:
        """Where both are."""
        a, b = (s if isinstance(s, str) else s.checkpoint.path for s in (self.a, self.b))
        return a, b


class OpeningPair(Loading):
    """Reads both sides, and compares what their metadata says; the outcome is a `Comparison`."""

    def __init__(
        self, pair: PairOf, prefetched: tuple[Child | None, Child | None] | None = None
    ) -> None:
        super().__init__(" and ".join(pair.paths))
        self.pair = pair
        #: The path of the side that is being read; of the one that failed, if that is over.
        self.reading = ""
        self._children = prefetched

    def _load(self) -> Outcome:
        from inspector.diff.model import Side, Tolerance  # lazy: the screen shows without
        from inspector.diff.structure import compare_structure  # lazy: the screen shows without
        from inspector.layout.writer.written_by import infer  # lazy: the screen shows without
        from inspector.tui.diff.comparison import Comparison  # lazy: the screen shows without

        given = (self.pair.a, self.pair.b)
        # Two children, so that both are read at once.
        children = self._children or tuple(
            prefetch(side) if isinstance(side, str) else None for side in given
        )
        try:
            a, b = (self._side(*of) for of in zip(given, children, strict=True))
        finally:
            for child in children:
                if child is not None:
                    child.stop()
        self.stage, self.num_bytes = "comparing names, shapes and placements", 0
        self.reading = ""
        filter_text = self.pair.filter_text
        structure = compare_structure(
            Side(a.checkpoint, a.storage), Side(b.checkpoint, b.storage), filter_text
        )
        lone = structure.only_in_a or structure.only_in_b
        if filter_text and not (structure.diffs or structure.entries or lone):
            raise UsageError("no name of either checkpoint matches the filter")
        if self._cancelled.is_set():
            raise Cancelled("it was stopped")
        written_by = infer(a.checkpoint), infer(b.checkpoint)
        return Comparison(structure, written_by, self.pair.tolerance or Tolerance(), filter_text)

    def _side(self, given: str | Loaded, child: Child | None) -> Loaded:
        if isinstance(given, Loaded):
            return given
        self.reading = given
        self.stage, self.num_bytes = f"looking at {printable(given, 200)}", 0
        target = locate_one(given)
        return Loaded(target, read_checkpoint(target, progress=self._progress, prefetched=child))


class ComparingValues:
    """A comparison of values, for a thread; asked now and then how far it is.

    Args:
        structure: What is to be compared, and nothing else.
        tolerance: What counts as close.
        is_all: Whether that is everything that was left.
    """

    def __init__(self, structure: Structure, tolerance: Tolerance, *, is_all: bool) -> None:
        self.is_all = is_all
        self.progress: DiffProgress | None = None
        self._structure = structure
        self._tolerance = tolerance
        self._found: deque[TensorDiff] = deque()

    def drain(self) -> list[TensorDiff]:
        """The tensors that were compared since it was asked last."""
        return [self._found.popleft() for _ in range(len(self._found))]

    def read(self, stop: Callable[[], bool]) -> Diff:
        """Compare; blocks. What was compared until it is told to stop.

        Raises:
            InspectError: It could not be done.
        """
        from inspector.diff.values import compare_values  # lazy: the screen shows without

        def tell(progress: DiffProgress) -> bool:
            self.progress = progress
            return stop()

        return compare_values(
            self._structure, tolerance=self._tolerance, progress=tell, on_tensor=self._found.append
        )
