"""`Comparison`: two checkpoints side by side, a row for every name, and what is known of it by now.

No widget. The rule this module keeps: rows change in the thread of the app alone; those that
compare hand in what they found.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from inspector.checkpoint.text import printable
from inspector.diff.model import VERDICTS, BytesDiff, Diff, TensorDiff, Tolerance

if TYPE_CHECKING:
    from inspector.diff.structure import Pair, Structure
    from inspector.layout.writer.written_by import WrittenBy

__all__ = [
    "GROUPS",
    "Comparison",
    "Item",
    "Lone",
    "Renamed",
    "group_of",
    "indices_of",
    "is_difference",
    "names_of",
    "said_of",
]

#: What a row may be: a verdict, or a name that only one side has. The worst first.
GROUPS: dict[str, str] = {
    **{verdict: verdict for verdict in VERDICTS},
    "ONLY_A": "only in A",
    "ONLY_B": "only in B",
    "RENAMED": "renamed",
}

_NOT_YET = "values were not compared"


@dataclass(frozen=True, slots=True)
class Lone:
    """A name that only one side has.

    Attributes:
        fqn: Raw name.
        is_a: Whether A has it.
        index: Of the tensor there; -1 for a bytes entry.
        likely: The name that the other side may have for it; empty if none suggests itself.
    """

    fqn: str
    is_a: bool
    index: int = -1
    likely: str = ""


@dataclass(frozen=True, slots=True)
class Renamed:
    """A tensor that both sides have, bit for bit, under two names."""

    fqn: str
    other: str
    index_a: int
    index_b: int


Item: TypeAlias = "TensorDiff | BytesDiff | Lone | Renamed"


def group_of(item: Item) -> str:
    """Which of `GROUPS` a row is in."""
    if isinstance(item, Lone):
        return "ONLY_A" if item.is_a else "ONLY_B"
    return "RENAMED" if isinstance(item, Renamed) else item.verdict


def is_difference(item: Item) -> bool:
    """Whether a row is proven to differ."""
    return group_of(item) not in ("EXACT", "NOT_COMPARED")


def names_of(item: Item) -> str:
    """What a filter looks at."""
    return f"{item.fqn} {item.other}" if isinstance(item, Renamed) else item.fqn


class Comparison:
    """What the screen shows."""

    def __init__(
        self,
        structure: Structure,
        written_by: tuple[WrittenBy, WrittenBy],
        tolerance: Tolerance,
        filter_text: str = "",
    ) -> None:
        self.structure = structure
        self.written_by = written_by
        self.tolerance = tolerance
        self.filter_text = filter_text
        self.is_cancelled = False
        #: True once a comparison of all values came to its end, or was stopped.
        self.values_compared = False
        #: Names of the tensors whose values were asked for, whatever came of it.
        self.tried: set[str] = set()
        self._pairs = {pair.fqn: pair for pair in structure.pairs}
        self._entries = {pair.fqn: pair for pair in structure.entries}
        self._renamed: tuple[tuple[str, str], ...] = ()
        self._renames_known = not (structure.tensors_only_in_a and structure.tensors_only_in_b)
        self._tensors = {diff.fqn: diff for diff in structure.diffs}
        self._bytes = {
            fqn: BytesDiff(fqn, "NOT_COMPARED", detail=_NOT_YET) for fqn in self._entries
        }
        self._diff: Diff | None = None
        self.items: list[Item] = []
        self.rows: dict[str, int] = {}
        self.counts: Counter[str] = Counter()
        self._list()

    def _list(self) -> None:
        """Every row anew, in A's order; what only one side names comes last."""
        structure = self.structure
        names_a = structure.a.checkpoint.columns.fqns
        names_b = structure.b.checkpoint.columns.fqns
        tensors_a = {names_a[i]: i for i in structure.tensors_only_in_a}
        tensors_b = {names_b[i]: i for i in structure.tensors_only_in_b}
        likely_a = dict(structure.likely_renamed)
        likely_b = {b: a for a, b in structure.likely_renamed}
        gone, come = {a for a, _ in self._renamed}, {b for _, b in self._renamed}
        items: list[Item] = [*self._tensors.values(), *self._bytes.values()]
        items += [Renamed(a, b, tensors_a[a], tensors_b[b]) for a, b in self._renamed]
        for names, is_a, tensors, likely, own, others in (
            (structure.only_in_a, True, tensors_a, likely_a, gone, come),
            (structure.only_in_b, False, tensors_b, likely_b, come, gone),
        ):
            for name in names:
                if name not in own:
                    twin = likely.get(name, "")
                    twin = "" if twin in others else twin
                    items.append(Lone(name, is_a, tensors.get(name, -1), twin))
        self.items = items
        self.rows = {item.fqn: row for row, item in enumerate(items)}
        self.counts = Counter(map(group_of, items))

    # What is still to be done.

    def pair(self, item: Item) -> Pair | None:
        """What of both sides a row's values are compared of; None if they cannot be."""
        if isinstance(item, TensorDiff) and item.num_elements:
            return self._pairs.get(item.fqn)
        return None

    def is_whole(self, item: Item) -> bool:
        """Whether every element was compared."""
        return isinstance(item, TensorDiff) and item.num_compared == item.num_elements > 0

    def todo(self, only: Item | None = None) -> Structure | None:
        """What was not compared yet, as a structure that holds nothing else; None if all was.

        Args:
            only: A row that is to be compared, and nothing else.
        """
        structure = self.structure
        is_first = only is None and not self.tried
        if is_first and (self._pairs or self._entries or not self._renames_known):
            return structure
        tensors = self._tensors.values() if only is None else [only]
        wanted = {d.fqn for d in tensors if self.pair(d) is not None and not self.is_whole(d)}
        entries: tuple[Pair, ...] = ()
        if only is None:
            left = (fqn for fqn, diff in self._bytes.items() if diff.verdict == "NOT_COMPARED")
            entries = tuple(self._entries[fqn] for fqn in left)
        lone = only is None and not self._renames_known
        if not (wanted or entries or lone):
            return None
        return replace(
            structure,
            pairs=tuple(pair for pair in structure.pairs if pair.fqn in wanted),
            entries=entries,
            diffs=tuple(diff for diff in structure.diffs if diff.fqn in wanted),
            tensors_only_in_a=structure.tensors_only_in_a if lone else (),
            tensors_only_in_b=structure.tensors_only_in_b if lone else (),
        )

    # Values in.

    def take(self, diffs: Iterable[TensorDiff]) -> list[int]:
        """Tensors that were compared meanwhile; the rows that changed."""
        changed = []
        for diff in diffs:
            row = self.rows[diff.fqn]
            self._set(row, diff)
            changed.append(row)
        return changed

    def _set(self, row: int, diff: TensorDiff | BytesDiff) -> None:
        self.counts[group_of(self.items[row])] -= 1
        self.counts[diff.verdict] += 1
        self.items[row] = diff
        self.tried.add(diff.fqn)
        self._diff = None
        if isinstance(diff, TensorDiff):
            self._tensors[diff.fqn] = diff
        else:
            self._bytes[diff.fqn] = diff

    def finish(self, diff: Diff, *, is_all: bool) -> bool:
        """A comparison ended; True if there are other rows now (a rename was proven).

        Args:
            diff: What came out of what `todo` gave.
            is_all: Whether it was of everything that was left.
        """
        for tensor in diff.tensors:
            # What was taken already, or was not reached, says no more than before.
            row = self.rows[tensor.fqn]
            if tensor != self.items[row] and (tensor.num_compared or not diff.is_cancelled):
                self._set(row, tensor)
        for entry in diff.entries:
            if entry.verdict != "NOT_COMPARED" or not diff.is_cancelled:
                self._set(self.rows[entry.fqn], entry)
        if is_all:
            self.values_compared, self.is_cancelled = True, diff.is_cancelled
            self._renames_known = self._renames_known or not diff.is_cancelled
        self._diff = None
        if not diff.renamed:
            return False
        self._renamed = diff.renamed
        self._list()
        return True

    def all_compared(self) -> None:
        """Nothing is left to compare: it was done row by row, or there was nothing."""
        self.values_compared, self.is_cancelled, self._diff = True, False, None

    @property
    def diff(self) -> Diff:
        """What is known by now, as text and JSON tell it; the same until more is."""
        if self._diff is None:
            self._diff = self._as_diff()
        return self._diff

    def _as_diff(self) -> Diff:
        gone, come = {a for a, _ in self._renamed}, {b for _, b in self._renamed}
        structure = self.structure
        return replace(
            structure.diff(),
            tensors=tuple(self._tensors.values()),
            entries=tuple(self._bytes.values()) if self.values_compared else (),
            only_in_a=tuple(name for name in structure.only_in_a if name not in gone),
            only_in_b=tuple(name for name in structure.only_in_b if name not in come),
            renamed=self._renamed,
            tolerance=self.tolerance if self.values_compared or self.tried else None,
            values_compared=self.values_compared,
            is_cancelled=self.is_cancelled,
        )

    def placements(self, item: Item) -> tuple[tuple[str, ...] | None, tuple[str, ...] | None]:
        """How a row's tensor lies on either side; None where it is none, or that is not known."""
        found = []
        for by, index in zip(self.written_by, indices_of(item), strict=True):
            found.append(by.placements(index).placements if index >= 0 else None)
        return found[0], found[1]


def indices_of(item: Item) -> tuple[int, int]:
    """A row's tensor in A and in B; -1 where it is none."""
    if isinstance(item, Lone):
        return (item.index, -1) if item.is_a else (-1, item.index)
    return (-1, -1) if isinstance(item, BytesDiff) else (item.index_a, item.index_b)


def said_of(item: Item) -> str:
    """What is to be said of a row beside its figures; printable."""
    if isinstance(item, Renamed):
        return f"{printable(item.other, 300)} in B, with the same content"
    if isinstance(item, Lone):
        other = "B" if item.is_a else "A"
        if item.likely:
            return f"maybe {printable(item.likely, 300)} in {other}, by name, shape and dtype"
        return f"{other} has no such name"
    return item.detail
