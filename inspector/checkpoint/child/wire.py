"""The form in which parsed metadata passes from the child process to the front end, and is kept.

Sixteen bytes of lengths, a JSON header, the names (one text for all tensors, one for the nested
state dict if it has others; where each begins, and where each path is cut), then the columns (32
and 64-bit integers) one after another. No name is made a string of before it is asked for.
The rule this module keeps: what is read back is numbers, text and plain containers, and no byte of
it is run. Standard library only: the child imports it.
"""

from __future__ import annotations

import json
import mmap
import struct
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from inspector.checkpoint.child.names import Names

__all__ = ["EARLY", "StatePaths", "decode", "encode", "num_bytes_of", "room_for", "split_columns"]

#: What a line of the first entries begins with on the child's stderr, where libraries may write.
EARLY = "hsdp-inspect first entries: "

_LENGTHS = struct.Struct("<QQ")  # Of the header, and of it with the texts.
_FEW_BYTES = 1 << 20  # Zeroed in microseconds.


def encode(header: dict[str, Any], columns: Mapping[str, Any]) -> list[Any]:
    """The bytes, in pieces.

    Args:
        header: As `extract.Extraction.header` makes it; or a refusal, with no columns.
        columns: By name: arrays of the standard library or of numpy, or `memoryview`s.
    """
    # Those of eight bytes come first, so that each column begins at a multiple of its own.
    ordered = sorted(columns.items(), key=lambda item: -memoryview(item[1]).itemsize)
    views = {name: memoryview(column) for name, column in ordered}
    arrays = [[name, "q" if v.itemsize == 8 else "i", len(v)] for name, v in views.items()]
    packed = {**header, "arrays": arrays}
    texts: list[bytes] = []
    if "tensors" in header:
        packed["tensors"] = _pack(header["tensors"], texts)
        paths = StatePaths.of(header["state_paths"])
        cuts = _add(array("i", paths.cuts).tobytes(), texts)
        packed["state_paths"] = [_pack(paths.names, texts), cuts, [*paths.others.items()]]
    packed["texts"] = [len(text) for text in texts]
    head = json.dumps(packed, separators=(",", ":")).encode()
    num_texts = sum(packed["texts"])
    head += b" " * (-(len(head) + num_texts) % 8)
    lengths = _LENGTHS.pack(len(head), len(head) + num_texts)
    return [lengths, head, *texts, *(view.cast("B") for view in views.values())]


def decode(start: bytes | bytearray | memoryview) -> tuple[dict[str, Any], int] | None:
    """The header, and where the columns begin; None if there are not enough bytes yet.

    Raises:
        ValueError: It is no header.
    """
    if len(start) < _LENGTHS.size:
        return None
    head, both = _LENGTHS.unpack_from(start)
    if len(start) < _LENGTHS.size + both:
        return None
    end = _LENGTHS.size + head
    header: dict[str, Any] = json.loads(bytes(start[_LENGTHS.size : end]))
    texts = []
    for size in header.pop("texts"):
        texts.append(bytes(start[end : end + size]))
        end += size
    if "tensors" in header:
        header["tensors"] = _unpack(header["tensors"], texts)
        names, cuts, others = header["state_paths"]
        header["state_paths"] = StatePaths(
            _unpack(names, texts),
            array("i", texts[cuts]),
            {row: tuple(path) for row, path in others},
        )
    return header, end


def num_bytes_of(header: dict[str, Any]) -> int:
    """Bytes of the columns that belong to a header."""
    return sum(count * struct.calcsize(code) for _, code, count in header["arrays"])


def room_for(num_bytes: int) -> memoryview:
    """Zeroed memory to read into.

    Of a `bytearray` every page would be written first, while no other thread, and so no key of a
    user, has its turn: 20 ms for 100 MB. The kernel gives these pages when they are first read
    into, which a read does without the interpreter's lock; in large pages where it has such.
    """
    if num_bytes < _FEW_BYTES or not hasattr(mmap, "MAP_PRIVATE"):
        return memoryview(bytearray(num_bytes))
    pages = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        try:
            pages.madvise(mmap.MADV_HUGEPAGE)
        except OSError:
            pass  # A system that was built without.
    return memoryview(pages)


def split_columns(header: dict[str, Any], body: memoryview) -> dict[str, memoryview]:
    """The columns by name, which lie in `body` one after another."""
    columns: dict[str, memoryview] = {}
    at = 0
    for name, code, count in header["arrays"]:
        end = at + count * struct.calcsize(code)
        columns[name] = body[at:end].cast(code)
        at = end
    return columns


def _pack(names: Sequence[str], texts: list[bytes]) -> list[int] | list[str]:
    """Which of the texts are these names, and where each begins; themselves, if one has a line."""
    found = Names.of(names)
    if found is None:
        return list(names)
    return [_add(found.lines, texts), _add(array("q", found.starts).tobytes(), texts)]


def _add(text: bytes, texts: list[bytes]) -> int:
    if text not in texts:
        texts.append(text)
    return texts.index(text)


def _unpack(packed: list[Any], texts: list[bytes]) -> Sequence[str]:
    if packed and isinstance(packed[0], int):
        return Names(texts[packed[0]], array("q", texts[packed[1]]))
    return packed


class StatePaths(Mapping[str, tuple[str | int, ...]]):
    """Path into the nested state dict by fqn; put together when it is first asked for.

    Args:
        names: The fqns.
        cuts: Of each, the length of the first of the two parts that, joined by a dot, it is; -1
            if its path is another.
        others: Those by number.
    """

    def __init__(
        self, names: Sequence[str], cuts: Sequence[int], others: dict[int, tuple[str | int, ...]]
    ) -> None:
        self.names = names
        self.cuts = cuts
        self.others = others
        self._known: dict[str, tuple[str | int, ...]] | None = None

    @classmethod
    def of(cls, paths: Mapping[str, tuple[str | int, ...]]) -> StatePaths:
        """The same paths in this form."""
        if isinstance(paths, StatePaths):
            return paths
        cuts = [_cut(fqn, path) for fqn, path in paths.items()]
        every = zip(cuts, paths.values(), strict=True)
        others = {row: path for row, (cut, path) in enumerate(every) if cut < 0}
        return cls(list(paths), cuts, others)

    def _all(self) -> dict[str, tuple[str | int, ...]]:
        if self._known is None:
            self._known = {
                fqn: (fqn[:cut], fqn[cut + 1 :]) if cut >= 0 else self.others[row]
                for row, (fqn, cut) in enumerate(zip(self.names, self.cuts, strict=True))
            }
        return self._known

    def __getitem__(self, fqn: str) -> tuple[str | int, ...]:
        return self._all()[fqn]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self.cuts)


def _cut(fqn: str, path: Sequence[str | int]) -> int:
    if len(path) == 2:
        first, second = path
        if type(first) is str and type(second) is str and f"{first}.{second}" == fqn:
            return len(first)
    return -1
