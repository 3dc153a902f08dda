"""What is changed: bytes, opcodes of a pickle, values of metadata, zips, JSON, files.

Bytes are flipped, cut, repeated, spliced; opcodes dropped, doubled, moved, with an attack put in;
values of the metadata and of JSON made others (sizes, offsets, names, paths, whole containers);
fields of a payload's zip, and a payload's pickle with its checksum set right again. The attacks
touch a marker file at most.
"""

from __future__ import annotations

import io
import json
import pickle
import pickletools
import random
import re
import zipfile
from typing import Any

MARKER = "hsdp-fuzz-marker"


# -- bytes -------------------------------------------------------------------------------------


def change_bytes(data: bytes, rng: random.Random, other: bytes = b"") -> bytes:
    """One to four edits of the kinds that disks, copies and people make."""
    edits = (_flip, _set, _cut_out, _repeat, _insert, _zero, _end, _swap, _number)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if not data:
            return rng.randbytes(rng.randrange(64))
        if other and rng.random() < 0.1:
            a, b, c = (rng.randrange(len(x)) for x in (data, data, other))
            data = data[:a] + other[c : c + rng.randrange(1, 400)] + data[b:]
        else:
            data = rng.choice(edits)(data, rng)
    return data


def _flip(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def _set(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + bytes([rng.choice((0, 1, 0x7F, 0x80, 0xFF, 0x2E))]) + data[at + 1 :]


def _cut_out(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + data[at + rng.randrange(1, 40) :]


def _repeat(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    part = data[at : at + rng.randrange(1, 40)]
    return data[:at] + part * rng.randrange(2, 20) + data[at:]


def _insert(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + rng.randbytes(rng.randrange(1, 20)) + data[at:]


def _zero(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    num = min(rng.choice((4, 64, 512, 4096)), len(data) - at)
    return data[:at] + bytes(num) + data[at + num :]


def _end(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))] if rng.random() < 0.7 else data + rng.randbytes(100)


def _swap(data: bytes, rng: random.Random) -> bytes:
    a, b = sorted(rng.randrange(len(data)) for _ in range(2))
    num = min(rng.randrange(1, 64), b - a, len(data) - b)
    one, other = data[a : a + num], data[b : b + num]
    return data[:a] + other + data[a + num : b] + one + data[b + num :]


def _number(data: bytes, rng: random.Random) -> bytes:
    at, size = rng.randrange(len(data)), rng.choice((1, 2, 4, 8))
    number = rng.choice((0, 1, (1 << 8 * size) - 1, 1 << (8 * size - 1), rng.getrandbits(8 * size)))
    return data[:at] + number.to_bytes(size, "little") + data[at + size :]


# -- opcodes -----------------------------------------------------------------------------------


def _attacks() -> list[bytes]:
    """Opcodes that a pickle of ours has no use for."""
    call = b"cposix\nsystem\n(S'touch " + MARKER.encode() + b"'\ntR"
    return [
        call,
        call + b"0",
        b"\x8c\x02os\x8c\x06system\x93",
        b"cbuiltins\neval\n(S'1'\ntR",
        b"cbuiltins\ngetattr\n",
        b"ctorch.serialization\nload\n",
        b"(i__main__\nNothing\n",
        b"\x82\x01",
        b"P1\n",
        b"Q",
        b"\x8b\xff\xff\xff\x7f\x01",
        b"\x8a\xff" + b"\xff" * 255,
        b"\x8e" + b"\xff" * 7 + b"\x7fx",
        b"\x8d\x00\x00\x00\x00\x00\x10\x00\x00x",
        b"r\xff\xff\xff\xff",
        b"h\xff",
        b"j\xff\xff\xff\x7f",
        b"2" * 50,
        b"0",
        b"(" * 1000,
        b"\x85" * 5000,
        b"]" * 2000 + b"a" * 1999,
        b"R",
        b"b",
        b"\x81",
        b"\x92",
        b"o",
        b"u",
        b"e",
        b"s",
        b"a",
        b"t",
        b"}",
        b")",
        b"N",
        b"\x94",
        b"I" + b"9" * 5000 + b"\n",
        b"F1e999\n",
        b"\x95" + b"\xff" * 8,
        b".",
        b"\x97\x98",
        b"\x96\x00\x00\x00\x00\x00\x00\x10\x00x",
    ]


def change_opcodes(data: bytes, rng: random.Random) -> bytes:
    """Edits between opcodes, so that the pickle machine gets far before it meets them.

    Frames are left out: they are optional, and a wrong length would end the reading at once.
    """
    steps: list[bytes] = []
    positions = [(op, pos) for op, _, pos in pickletools.genops(data)]
    ends = [pos for _, pos in positions[1:]] + [len(data)]
    for (op, pos), end in zip(positions, ends, strict=True):
        if op.name != "FRAME":
            steps.append(data[pos:end])
    attacks = _attacks()
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randrange(1, len(steps))
        kind = rng.randrange(7)
        if kind == 0:
            del steps[at]
        elif kind == 1:
            steps.insert(at, steps[at] * rng.choice((1, 1, 2, 30)))
        elif kind == 2:
            to = rng.randrange(1, len(steps))
            steps[at], steps[to] = steps[to], steps[at]
        elif kind == 3:
            steps.insert(at, rng.choice(attacks))
        elif kind == 4:
            steps[at] = rng.choice(attacks)
        elif kind == 5:
            step = bytearray(steps[at])
            step[rng.randrange(len(step))] = rng.randrange(256)
            steps[at] = bytes(step)
        else:
            steps.insert(at, rng.choice(steps))
    return b"".join(steps)


# -- values of the metadata --------------------------------------------------------------------


def _odd_value(rng: random.Random) -> Any:
    odd: tuple[Any, ...] = (
        -1, 0, 1, 7, 1 << 31, (1 << 63) - 1, 1 << 63, 1 << 200, -(1 << 63), True, None, 1.5,
        float("nan"), "", "x", "model.net1.weight", "\x1b]0;owned\x07", "\u202ex", "\udc80",
        "../../etc/passwd", "/dev/zero", "a\0b", "C:\\x", "s3://x/y", "x" * 20_000, b"x", [], {},
        (), [[]], (1, 2), ("a",), (-1,), (1 << 62, 1 << 62), (0,) * 200, {1: 2}, ((((1,),),),),
        complex(1, 1), frozenset((1,)), range(3), object,
    )  # fmt: skip
    return rng.choice(odd)


def change_values(data: bytes, rng: random.Random) -> bytes:
    """The metadata with some of its values others, pickled by Python."""
    root = pickle.loads(data)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        _change_value(root, rng)
    return pickle.dumps(root, rng.choice((2, 3, 4, 4, 5)))


def _change_value(root: Any, rng: random.Random) -> None:
    """Walk down to some container or object, and change one thing in it."""
    here = root
    for _ in range(rng.randrange(1, 7)):
        inner = _inside(here)
        if not inner:
            break
        here = rng.choice(inner)
    if isinstance(here, dict) and here:
        _change_dict(here, rng)
    elif isinstance(here, list):
        if here and rng.random() < 0.5:
            here.append(rng.choice(here))
        elif here and rng.random() < 0.5:
            del here[rng.randrange(len(here))]
        else:
            here.append(_odd_value(rng))
    elif hasattr(here, "__dict__") and vars(here) and not isinstance(here, type):
        fields = vars(here)
        name = rng.choice(list(fields))
        if rng.random() < 0.15:
            fields.pop(name)
        elif isinstance(fields[name], tuple) and rng.random() < 0.6:
            values = list(fields[name])
            if values:
                values[rng.randrange(len(values))] = _odd_value(rng)
            fields[name] = tuple(values)
        elif type(fields[name]) is int and rng.random() < 0.6:
            fields[name] += rng.choice((-1, 1, -700, 4096, 1 << 40))
        else:
            fields[name] = _odd_value(rng)


def _change_dict(here: dict[Any, Any], rng: random.Random) -> None:
    """One entry gone, or of another value or key; nothing, if a key can no longer be one.

    Entries are found by their place: a key that was changed before is found by its hash or not, as
    chance has it in each process.
    """
    items = list(here.items())
    at, kind = rng.randrange(len(items)), rng.randrange(4)
    key, value = items[at]
    if kind == 0:
        del items[at]
    elif kind == 1:
        items[at] = key, _odd_value(rng)
    elif kind == 2:
        items[at] = key, rng.choice(items)[1]
        if "another" not in here:
            items.append(("another", value))
    else:
        del items[at]
        odd = _odd_value(rng)
        if not isinstance(odd, (list, dict)):
            items.append((odd, value))
    try:
        changed = dict(items)
    except (TypeError, AttributeError):
        return  # A key of an earlier step that has no hash.
    here.clear()
    here.update(changed)


def _inside(value: Any) -> list[Any]:
    """What a value holds that can be changed."""
    if isinstance(value, dict):
        inner = [*value.values(), *(k for k in value if hasattr(k, "__dict__"))]
    elif isinstance(value, list):
        inner = value
    elif hasattr(value, "__dict__") and not isinstance(value, type):
        inner = list(vars(value).values())
    else:
        return []
    return [item for item in inner if isinstance(item, (dict, list)) or hasattr(item, "__dict__")]


# -- payloads ----------------------------------------------------------------------------------


def change_zip(data: bytes, rng: random.Random) -> bytes:
    """A field of a local header, a directory entry or the directory's end."""
    marks = [m.start() for m in re.finditer(rb"PK(?:\x01\x02|\x03\x04|\x05\x06|\x06\x06)", data)]
    for _ in range(rng.choice((1, 1, 2))):
        if not marks:
            return _flip(data, rng)
        at = rng.choice(marks) + rng.randrange(4, 46)
        size = rng.choice((1, 2, 4))
        top = 1 << 8 * size
        number = rng.choice((0, 1, 8, top - 1, top // 2, rng.randrange(top)))
        data = data[:at] + number.to_bytes(size, "little") + data[at + size :]
    return data


def change_inner_pickle(payload: bytes, rng: random.Random) -> bytes:
    """A payload whose pickle is changed and whose checksums are right."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(payload)) as old, zipfile.ZipFile(out, "w") as new:
        for item in old.infolist():
            data = old.read(item)
            if item.filename.endswith("data.pkl"):
                data = change_opcodes(data, rng)
            elif rng.random() < 0.1:
                data = change_bytes(data, rng)
            # The date is given: it would be today's.
            stored = zipfile.ZipInfo(item.filename, (2026, 1, 1, 0, 0, 0))
            stored.external_attr = 0o600 << 16
            new.writestr(stored, data)
    return out.getvalue()


# -- JSON --------------------------------------------------------------------------------------


def change_json(data: bytes, rng: random.Random) -> bytes:
    """A JSON document with some of its values others, or its text."""
    if rng.random() < 0.3:
        return change_bytes(data, rng)
    root = json.loads(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        _change_json_value(root, rng)
    text = json.dumps(root)
    if rng.random() < 0.1:
        at = rng.randrange(len(text))
        text = text[:at] + rng.choice(_ODD_JSON) + text[at:]
    return text.encode()


_ODD_JSON = ("[" * 3000, '{"a":' * 3000, "9" * 5000, "NaN", "-Infinity", "\\ud800", "1e999", "\0")


def _change_json_value(root: Any, rng: random.Random) -> None:
    here = root
    for _ in range(rng.randrange(5)):
        values = list(here.values()) if isinstance(here, dict) else here
        inner = [v for v in values if isinstance(v, (dict, list)) and v]
        if not inner:
            break
        here = rng.choice(inner)
    odd = _odd_json(rng)
    if isinstance(here, dict):
        key = rng.choice(list(here))
        kind = rng.randrange(5)
        if kind == 0:
            del here[key]
        elif kind == 1:
            here[str(odd)[:200]] = here.pop(key)
        elif kind == 2:
            other = rng.choice(list(here))
            here[key], here[other] = here[other], here[key]
        elif kind == 3 and type(here[key]) is int:
            here[key] += rng.choice((-1, 1, -700, 4096, 1 << 40))
        else:
            here[key] = odd
    elif isinstance(here, list) and here:
        at = rng.randrange(len(here))
        kind = rng.randrange(4)
        if kind == 0:
            del here[at]
        elif kind == 1:
            here.append(rng.choice(here))
        elif kind == 2 and type(here[at]) is int:
            here[at] += rng.choice((-1, 1, 8, -8, 1 << 40))
        else:
            here[at] = odd


def _odd_json(rng: random.Random) -> Any:
    odd: tuple[Any, ...] = (
        -1, 0, 1, 7, 1 << 31, 1 << 63, 1 << 200, True, None, 1.5, float("nan"), -1e300, "", "x",
        "\x1b]0;owned\x07", "\u202ex", "\udc80", "\x9b2J", "../../etc/passwd", "/dev/zero", "a\0b",
        "s3://x/y", "x" * 20_000, "e\u0301" * 500, [], {}, [[]], [1, 2], {"a": 1}, {"": {}}, "F32",
        "EXACT", "::error::x", "\n::warning::x\n",
    )  # fmt: skip
    return rng.choice(odd)


def change_header(data: bytes, rng: random.Random) -> bytes:
    """A safetensors file with its header's JSON others, and a length that fits or does not."""
    size = int.from_bytes(data[:8], "little")
    header = change_json(data[8 : 8 + size], rng)
    if rng.random() < 0.7:
        header += b" " * (-len(header) % 8)
    told = len(header) if rng.random() < 0.9 else rng.choice((0, size, 1 << 63, len(header) + 8))
    return told.to_bytes(8, "little") + header + data[8 + size :]


def change_lines(data: bytes, rng: random.Random) -> bytes:
    """A recording with lines changed, moved, left out."""
    lines = data.splitlines()
    for _ in range(rng.choice((1, 2, 4, 12))):
        at = rng.randrange(len(lines))
        kind = rng.randrange(6)
        if kind == 0 and len(lines) > 1:
            del lines[at]
        elif kind == 1:
            lines.insert(at, rng.choice(lines))
        elif kind == 2:
            to = rng.randrange(len(lines))
            lines[at], lines[to] = lines[to], lines[at]
        else:
            try:
                lines[at] = change_json(lines[at], rng)
            except (ValueError, IndexError):
                lines[at] = change_bytes(lines[at], rng)
    return b"\n".join(lines) + b"\n"
