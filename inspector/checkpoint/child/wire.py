"""The form in which parsed metadata passes from the child process to the front end, and is kept.

Sixteen bytes of lengths, a JSON header, the names (one text for all tensors, one for the nested
state dict if it has others), then the columns (32 and 64-bit integers) one after another. A
hundred thousand names in JSON would hold the interpreter, and so the screen, for twice as long.
The rule this module keeps: what is read back is numbers, text and plain containers, and no byte of
it is run. Standard library only: the child imports it.
"""

from __future__ import annotations

import json
import mmap
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

__all__ = ["StatePaths", "decode", "encode", "num_bytes_of", "room_for", "split_columns"]

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
        names, paths = StatePaths.pack(header["state_paths"])
        packed["state_paths"] = [_pack(names, texts), paths]
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
        header["tensors"] = _names(_text(header["tensors"], texts))
        names, paths = header["state_paths"]
        header["state_paths"] = StatePaths(_text(names, texts), paths)
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


def _pack(names: bytes | list[str], texts: list[bytes]) -> int | list[str]:
    """Which of the texts holds these names, one a line; themselves, if there is a line in one."""
    if isinstance(names, bytes):
        data = names
    else:
        text = "\n".join(names)
        if text.count("\n") != len(names) - 1:
            return names
        data = text.encode("utf-8", "surrogatepass")
    if data not in texts:
        texts.append(data)
    return texts.index(data)


def _text(packed: int | list[str], texts: list[bytes]) -> bytes | list[str]:
    return texts[packed] if isinstance(packed, int) else packed


def _names(names: bytes | list[str]) -> list[str]:
    return names.decode("utf-8", "surrogatepass").split("\n") if isinstance(names, bytes) else names


class StatePaths(Mapping[str, tuple[str | int, ...]]):
    """Path into the nested state dict by fqn; put together when it is first asked for.

    A path of two parts that, joined by a dot, are the fqn, is kept as the length of the first.
    """

    def __init__(self, names: bytes | list[str], paths: list[int | Sequence[str | int]]) -> None:
        self._names = names
        self._paths = paths
        self._known: dict[str, tuple[str | int, ...]] | None = None

    @staticmethod
    def pack(paths: Mapping[str, Any]) -> tuple[bytes | list[str], list[Any]]:
        """The arguments."""
        if isinstance(paths, StatePaths):
            return paths._names, paths._paths
        return list(paths), [_cut(fqn, path) for fqn, path in paths.items()]

    def _all(self) -> dict[str, tuple[str | int, ...]]:
        if self._known is None:
            self._known = {
                fqn: (fqn[:path], fqn[path + 1 :]) if isinstance(path, int) else tuple(path)
                for fqn, path in zip(_names(self._names), self._paths, strict=True)
            }
        return self._known

    def __getitem__(self, fqn: str) -> tuple[str | int, ...]:
        return self._all()[fqn]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._paths)


def _cut(fqn: str, path: Sequence[str | int]) -> int | Sequence[str | int]:
    if len(path) == 2:
        first, second = path
        if type(first) is str and type(second) is str and f"{first}.{second}" == fqn:
            return len(first)
    return path
