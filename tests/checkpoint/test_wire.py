"""The wire: whatever names there are come back, from no fewer bytes than all."""

from __future__ import annotations

import resource
import sys
from array import array
from pathlib import Path
from typing import Any

import pytest

from inspector.checkpoint.child.wire import decode, encode, num_bytes_of, room_for, split_columns

NAMES = {
    "none": [],
    "one that is empty": [""],
    "plain": ["model.w", "model.b"],
    "wide and invalid": ["模型.w", "\ud800x", "e\u0301", "a\0b", "tab\t"],
    "with a line end": ["a\nb", "c"],
    "line ends alone": ["\n", "\n\n"],
    "other breaks": ["a\r", "b\u2028c", "\x85", "\x1c"],
}


def packed(names: list[str]) -> tuple[dict[str, Any], bytes]:
    paths: dict[str, tuple[str | int, ...]] = {name: ("top", name, 0) for name in names}
    paths["model.w"] = ("model", "w")
    header = {"tensors": names, "state_paths": paths, "files": ["a"]}
    columns = {"short": array("i", [1, -1, 2]), "long": array("q", [1 << 40])}
    return header, b"".join(bytes(piece) for piece in encode(header, columns))


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
def test_names_and_columns_come_back(names: list[str]) -> None:
    header, data = packed(names)
    decoded = decode(data)
    assert decoded is not None
    found, at = decoded
    assert found["tensors"] == names
    assert dict(found["state_paths"]) == header["state_paths"]
    assert found["files"] == ["a"]
    assert at % 8 == 0  # A column of eight bytes begins there.
    assert num_bytes_of(found) == len(data) - at
    columns = split_columns(found, memoryview(data)[at:])
    assert {name: column.tolist() for name, column in columns.items()} == {
        "short": [1, -1, 2],
        "long": [1 << 40],
    }
    # What was read is written again as it was, as the cache does.
    assert b"".join(bytes(piece) for piece in encode(found, columns)) == data


def test_nothing_is_decoded_before_all_names_are_there() -> None:
    _, data = packed(NAMES["plain"])
    decoded = decode(data)
    assert decoded is not None
    end = decoded[1]
    assert all(decode(data[:length]) is None for length in range(end))
    assert decode(data[:end]) is not None


def test_names_are_sent_once_where_the_nested_dict_has_the_same() -> None:
    names = [f"layers.{i}.weight" for i in range(100)]
    header = {"tensors": names, "state_paths": {name: tuple(name.split(".")) for name in names}}
    data = b"".join(bytes(piece) for piece in encode(header, {}))
    assert data.count(b"layers.77.weight") == 1


def test_room_is_zeroed_and_takes_memory_only_where_it_is_written() -> None:
    """What would be written first is written while no key of a user has its turn."""
    empty = room_for(0)
    assert empty.nbytes == 0 and not empty.readonly
    before = _resident_bytes()
    room = room_for(1 << 30)
    assert _resident_bytes() - before < 1 << 28
    assert room.nbytes == 1 << 30 and room[:3] == bytes(3) and not room.readonly
    room[-8:] = b"12345678"
    assert room[-8:].cast("q").tolist() == [int.from_bytes(b"12345678", sys.byteorder)]


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
