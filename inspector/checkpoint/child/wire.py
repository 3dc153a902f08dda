"""The form in which parsed metadata passes from the child process to the front end, and is kept.

Eight bytes with the length of a JSON header, the header, then the columns (32 and 64-bit integers)
one after another. The rule this module keeps: what is read back is numbers, text and plain
containers, and no byte of it is run. Standard library only: the child imports it.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

__all__ = ["StatePaths", "decode", "encode", "num_bytes_of", "split_columns"]

_LENGTH = struct.Struct("<Q")


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
    if "tensors" in header:
        packed["tensors"] = _pack(header["tensors"])
        packed["state_paths"] = StatePaths.pack(header["state_paths"])
    text = json.dumps(packed, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return [_LENGTH.pack(len(text)), text, *(view.cast("B") for view in views.values())]


def decode(start: bytes | bytearray | memoryview) -> tuple[dict[str, Any], int] | None:
    """The header, and where the columns begin; None if there are not enough bytes yet.

    Raises:
        ValueError: It is no header.
    """
    if len(start) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack_from(start)
    end = _LENGTH.size + length
    if len(start) < end:
        return None
    header: dict[str, Any] = json.loads(bytes(start[_LENGTH.size : end]))
    if "tensors" in header:
        header["tensors"] = _unpack(header["tensors"])
        header["state_paths"] = StatePaths(*header["state_paths"])
    return header, end


def num_bytes_of(header: dict[str, Any]) -> int:
    """Bytes of the columns that belong to a header."""
    return sum(count * struct.calcsize(code) for _, code, count in header["arrays"])


def split_columns(header: dict[str, Any], body: memoryview) -> dict[str, memoryview]:
    """The columns by name, which lie in `body` one after another."""
    columns: dict[str, memoryview] = {}
    at = 0
    for name, code, count in header["arrays"]:
        end = at + count * struct.calcsize(code)
        columns[name] = body[at:end].cast(code)
        at = end
    return columns


# A hundred thousand names in one JSON text are read ten times as fast as in a list.
def _pack(names: list[str]) -> str | list[str]:
    text = "\n".join(names)
    return text if text.count("\n") == len(names) - 1 else names


def _unpack(names: str | list[str]) -> list[str]:
    return names.split("\n") if isinstance(names, str) else names


class StatePaths(Mapping[str, tuple[str | int, ...]]):
    """Path into the nested state dict by fqn; put together when it is first asked for.

    A path of two parts that, joined by a dot, are the fqn, is kept as the length of the first.
    """

    def __init__(self, names: str | list[str], paths: list[int | Sequence[str | int]]) -> None:
        self._names = names
        self._paths = paths
        self._known: dict[str, tuple[str | int, ...]] | None = None

    @staticmethod
    def pack(paths: Mapping[str, Any]) -> list[Any]:
        """The arguments, as JSON values."""
        if isinstance(paths, StatePaths):
            return [paths._names, paths._paths]
        return [_pack(list(paths)), [_cut(fqn, path) for fqn, path in paths.items()]]

    def _all(self) -> dict[str, tuple[str | int, ...]]:
        if self._known is None:
            self._known = {
                fqn: (fqn[:path], fqn[path + 1 :]) if isinstance(path, int) else tuple(path)
                for fqn, path in zip(_unpack(self._names), self._paths, strict=True)
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
