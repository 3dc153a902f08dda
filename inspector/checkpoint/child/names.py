"""Many names as one text, a name a line: a `str` is made only of one that is asked for.

A hundred thousand names are a few megabytes; as objects they are three times that, and making them
takes longer than all the numbers beside them. Standard library only: the child imports it.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any, overload

__all__ = ["Names", "any_has", "as_text", "first_parts"]

#: Of more first parts than these, the names are gone through one by one.
_FEW_PARTS = 16
#: Once one in so many was asked for by itself, all are made.
_SHARE = 8


class Names(Sequence[str]):
    """A sequence of names, none of which has a line end in it.

    Args:
        lines: All of them in UTF-8 (lone surrogates as they are), a line end between each two.
        starts: Where each begins, and, one past the last byte, where another would: of 64 bits,
            one more than there are names.
    """

    def __init__(self, lines: bytes, starts: Any) -> None:
        self.lines = lines
        self.starts = starts
        self._all: list[str] | None = None
        self._num_asked = 0

    @classmethod
    def of(cls, names: Sequence[str]) -> Names | None:
        """These names; None if there is a line end in one, or there is none."""
        if isinstance(names, Names):
            return names
        pieces = [name.encode("utf-8", "surrogatepass") for name in names]
        lines = b"\n".join(pieces)
        if lines.count(b"\n") != len(pieces) - 1:
            return None
        return cls(lines, array("q", accumulate((len(p) + 1 for p in pieces), initial=0)))

    def _made(self) -> list[str]:
        if self._all is None:
            self._all = self.text.split("\n")
        return self._all

    @property
    def text(self) -> str:
        """All of them, a line each."""
        return self.lines.decode("utf-8", "surrogatepass")

    def __len__(self) -> int:
        return len(self.starts) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if self._all is not None:
            return self._all[index]
        count = len(self)
        if isinstance(index, slice):
            rows = range(*index.indices(count))
            return (
                [self[row] for row in rows] if _SHARE * len(rows) < count else self._made()[index]
            )
        self._num_asked += 1
        if _SHARE * self._num_asked > count:
            return self._made()[index]
        if index < 0:
            index += count
        if not 0 <= index < count:
            raise IndexError(index)
        first, last = self.starts[index], self.starts[index + 1] - 1
        return self.lines[first:last].decode("utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        return iter(self._made())

    def __contains__(self, name: object) -> bool:
        return name in self._made()

    def index(self, name: str, *bounds: int) -> int:
        """Where a name stands first, as a list has it."""
        return self._made().index(name, *bounds)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Names):
            return self.lines == other.lines and len(self) == len(other)
        return isinstance(other, list) and self._made() == other

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(self._made())


def as_text(names: Sequence[str]) -> str:
    """All names, a line each: to look for what can be in one of them."""
    return names.text if isinstance(names, Names) else "\n".join(names)


def any_has(names: Sequence[str], part: str) -> bool:
    """Whether a text without a line end is in one of the names."""
    if isinstance(names, Names):
        return part.encode("utf-8", "surrogatepass") in names.lines
    return any(part in name for name in names)


def first_parts(names: Sequence[str]) -> frozenset[str]:
    """What stands before the first dot of each name, or all of it."""
    found = _few_first_parts(names) if isinstance(names, Names) and len(names) else None
    return _first_parts(names) if found is None else found


def _first_parts(names: Iterable[str]) -> frozenset[str]:
    return frozenset(name.partition(".")[0] for name in names)


def _few_first_parts(names: Names) -> frozenset[str] | None:
    """The same of names that mostly have one of a few; None if they have more of them.

    A part is counted in all names at once, and the next is looked for behind those that begin so.
    """
    found: list[bytes] = []
    lines, left, at = names.lines, len(names), 0
    while left:
        if len(found) == _FEW_PARTS:
            return None
        end = lines.find(b"\n", at)
        part = lines[at : end if end >= 0 else len(lines)].partition(b".")[0]
        if part in found:
            # Its names do not stand together: only the first of each was found so.
            return None
        dotted = part + b"."
        left -= lines.count(b"\n" + dotted) + lines.startswith(dotted)
        if not left:
            found.append(part)
            break
        if not lines.startswith(dotted, at):
            return None  # A name without a dot.
        found.append(part)
        # Behind the last of them that stands without another between: names come in groups.
        last = lines.rfind(b"\n" + dotted)
        at = lines.find(b"\n", max(last + 1, at)) + 1
        if not at:
            return None
    return frozenset(part.decode("utf-8", "surrogatepass") for part in found)
