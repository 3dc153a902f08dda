"""THE display gate: untrusted text becomes printable text, and values become text.

A tensor name, a file name or a line from a rank may hold escape sequences, bidi controls or a
lone surrogate. Every one of them passes `printable` before it reaches a terminal, a log or a
clipboard; the raw text stays in the model, for look-ups and for JSON. How names are cut and sorted
stands here, too.
"""

from __future__ import annotations

import math
import re
import time
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, Literal, TypeAlias

__all__ = [
    "HIDDEN",
    "Cut",
    "Number",
    "format_box",
    "format_bytes",
    "format_count",
    "format_literal",
    "format_placements",
    "format_ranks",
    "format_seconds",
    "format_shape",
    "format_short_placements",
    "format_stages",
    "format_time",
    "is_printable",
    "json_literal",
    "json_number",
    "natural_keys",
    "number_runs",
    "parse_bytes",
    "plural",
    "printable",
    "redact",
    "shorten",
]

#: Where a text that is too long loses characters.
Cut: TypeAlias = Literal["start", "middle", "end"]

_HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})

# Characters that draw nothing (or change their neighbour's look) though Unicode calls them
# letters, marks or spaces: fillers, the blank braille cell, variation selectors, odd spaces.
_HIDDEN = frozenset(
    [0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0, 0x00A0, 0x1680, 0x202F]
    + [0x205F, 0x3000]
    + list(range(0x180B, 0x1810))
    + list(range(0x2000, 0x200B))
    + list(range(0xFE00, 0xFE10))
    + list(range(0xE0100, 0xE01F0))
)


def _escape(char: str) -> str:
    code = ord(char)
    if char == "\n":
        return "\\n"
    if char == "\t":
        return "\\t"
    if char == "\r":
        return "\\r"
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def _hidden(char: str) -> bool:
    return ord(char) in _HIDDEN or unicodedata.category(char) in _HIDDEN_CATEGORIES


#: Marks that may stand on one character: no script piles up more.
_MAX_MARKS = 8


def _has_pile(text: str) -> bool:
    """Whether more marks stand on one character than `_MAX_MARKS`."""
    return any(is_beyond for _, is_beyond in _marked(text))


def _marked(text: str) -> Iterator[tuple[str, bool]]:
    """Each character, and whether it is a mark upon too many others."""
    run = 0
    for char in text:
        run = run + 1 if char > "\u02ff" and unicodedata.category(char)[0] == "M" else 0
        yield char, run > _MAX_MARKS


def is_printable(text: str) -> bool:
    """True if every character of `text` shows as itself and nothing else."""
    if text.isascii():
        return text.isprintable()
    return not any(map(_hidden, text)) and not _has_pile(text)


def printable(text: str, max_len: int | None = None) -> str:
    r"""`text` with every character that is obeyed, invisible or invalid written as an escape.

    C0 and C1 controls, DEL, bidi and other format controls, line and paragraph separators, odd
    spaces, fillers, private-use and unassigned characters and lone surrogates become `\x1b`,
    `\u202e` and the like; in such a text a backslash is doubled, so that the result can be read
    back. Wide and combining characters and markup brackets stay as they are; of marks upon one
    character, those beyond the eighth become escapes, so that no pile hides the lines around it.

    Passwords and queries of URLs are hidden, see `redact`.

    Args:
        text: Raw text.
        max_len: Longest result in characters; a longer one is cut in the middle with an
            ellipsis (the tail of a name says most).
    """
    if max_len is not None and len(text) > 2 * max_len:
        # Escapes only lengthen: what is cut here could not have been shown anyway.
        text = text[:max_len] + text[-max_len:]
        return shorten(_printable(text), max_len)
    shown = _printable(text)
    return shown if max_len is None else shorten(shown, max_len)


def _printable(text: str) -> str:
    if "://" in text:
        text = redact(text)
    if is_printable(text):
        return text
    return "".join(
        "\\\\" if char == "\\" else _escape(char) if is_beyond or _hidden(char) else char
        for char, is_beyond in _marked(text)
    )


#: Stands for what `redact` takes out.
HIDDEN = "***"
# A secret key of S3 may hold a slash.
_PASSWORD = re.compile(
    r"(://)[^/?#@\s]*:[^/?#\s]*@|(\bhttps?://)[^/?#\s]*@|(\bs3a?://)[^@?#\s]*:[^@?#\s]*@"
)
_QUERY = re.compile(r"(://[^\s?#]*[?])[^\s'\"()]+")


def redact(text: str) -> str:
    """`text` with what may be a secret in its URLs hidden: passwords, and whole queries.

    A query may be a signature (a presigned URL), a password stands before an `@`. The container
    of `abfs://container@account/path` is no secret and stays.
    """
    return _QUERY.sub(rf"\1{HIDDEN}", _PASSWORD.sub(rf"\1\2\3{HIDDEN}@", text))


def shorten(
    text: str, width: int, cut: Cut = "middle", size: Callable[[str], int] | None = None
) -> str:
    """`text` cut to a width, an ellipsis where something is missing.

    No number is cut, nor stands before the ellipsis: who reads `8…` cannot tell whether that was
    8 or 80. Only one that alone is too long is cut.

    Args:
        text: Printable text.
        width: What it may take: characters, or what `size` counts. The result may be shorter.
        cut: Where it is cut: in the `middle`, a third of the way in, as the tail of a name tells
            it from others; at the `end`; or at the `start`, as of a path.
        size: What a character takes, in terminal cells say; None where each counts one.
    """
    if (len(text) if size is None else sum(map(size, text))) <= width:
        return text
    if width <= 1:
        return "…"[: max(width, 0)]
    head = {"start": 0, "middle": (width - 1) // 3, "end": width - 1}[cut]
    tail = _beginning(text[::-1], width - 1 - head, size)[::-1]
    if _IN_NUMBER.search(text[: len(text) - len(tail)]) and tail[:1].isdigit():
        tail = tail.lstrip("0123456789.,") or tail
    kept = _beginning(text, head, size)
    return (_LAST_NUMBER.sub("", kept) or kept) + "…" + tail


_LAST_NUMBER = re.compile(r"[0-9][0-9.,]*$")
#: A text after which a digit belongs to the number before it.
_IN_NUMBER = re.compile(r"[0-9][.,]?$")


def _beginning(text: str, room: int, size: Callable[[str], int] | None) -> str:
    if size is None:
        return text[:room]
    for position, char in enumerate(text):
        room -= size(char)
        if room < 0:
            return text[:position]
    return text


_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def format_bytes(num_bytes: int | float | None) -> str:
    """Bytes as people read them, in binary units: `1.2 MiB`, `512 B`, `?` for None."""
    if num_bytes is None:
        return "?"
    value, sign = (float(num_bytes), "") if num_bytes >= 0 else (-float(num_bytes), "-")
    for unit in _UNITS:
        # 1023.95 would be rounded to "1024.0" of its unit.
        if value < 1023.95 or unit == _UNITS[-1]:
            break
        value /= 1024
    return f"{sign}{value:.0f} B" if unit == "B" else f"{sign}{value:.1f} {unit}"


_SIZE = re.compile(r"(.*?)\s*(?:([kmgt])(i?))?b?", re.IGNORECASE | re.DOTALL)
_PLAIN_NUMBER = re.compile(r"\d+(?:\.\d+)?")


def parse_bytes(text: str, *, is_binary: bool = False) -> float | None:
    """Bytes of `5GB`, `1.5 MiB`, `300m` or `1000`; None if it is no size.

    Args:
        text: As a person wrote it, in any case; the `B` may be left out.
        is_binary: Whether units without an `i` are binary as well, as those of memory are: then
            4G is 4 x 2^30 bytes. Otherwise they are decimal, as those of files and networks are:
            4G is 4 x 10^9. `Ki`, `Mi`, `Gi` and `Ti` are binary in any case. A number may then
            also be written as Python's are (`1e9`), and be negative.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None or not (is_binary or _PLAIN_NUMBER.fullmatch(found[1])):
        return None
    base = 1024 if is_binary or found[3] else 1000
    try:
        number = float(found[1]) * base ** " kmgt".index((found[2] or " ").lower())
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def format_count(number: int | None) -> str:
    """A count with thousands separators; `?` for None."""
    return "?" if number is None else f"{number:,}"


def plural(number: int, noun: str, nouns: str | None = None) -> str:
    """`1 chunk`, `1,024 chunks`."""
    return f"{number:,} {noun if number == 1 else nouns or noun + 's'}"


def format_shape(shape: Iterable[int]) -> str:
    """A shape or an offset as a list: `[4096, 8]`, `[]` for a scalar."""
    return "[" + ", ".join(map(str, shape)) + "]"


def format_box(offsets: Iterable[int], sizes: Iterable[int]) -> str:
    """A box as index ranges, half open as Python's: `[0:8, 0:5]`."""
    return "[" + ", ".join(f"{a}:{a + n}" for a, n in zip(offsets, sizes, strict=False)) + "]"


def format_placements(placements: Iterable[str] | None) -> str:
    """Placements as torch writes them: `[Replicate(), Shard(0)]`; `?` for None."""
    return "?" if placements is None else "[" + ", ".join(placements) + "]"


_SHORT = (("_StridedShard(", "_S("), ("Shard(", "S("), ("Replicate()", "R"), ("sf=", ""))


def format_short_placements(placements: Iterable[str] | None) -> str:
    """Placements as torch writes them within a tensor's spec: `[R, S(0), _S(0, 2)]`."""
    text = format_placements(placements)
    for whole, short in _SHORT:
        text = text.replace(whole, short)
    return text


def format_time(seconds: float | None) -> str:
    """A moment in local time, to the second; `?` for None."""
    if seconds is None:
        return "?"
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def number_runs(numbers: Iterable[int], between: str = "-") -> list[str]:
    """Rising numbers as their runs, each in words: `0-3`, `7`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return [str(a) if a == b else f"{a}{between}{b}" for a, b in runs]


def format_stages(stages: Collection[int] | None) -> str:
    """Pipeline stages, numbered from 1: `2`, or `1,2`; nothing where none is told (None)."""
    return ",".join(map(str, sorted(stages or ())))


def format_ranks(ranks: Sequence[int]) -> str:
    """Ranks as short ranges: `0-3,7`; `?` where a rank is not known (-1)."""
    parts = number_runs(sorted({rank for rank in ranks if rank >= 0}))
    if any(rank < 0 for rank in ranks):
        parts.append("?")
    return ",".join(parts)


def format_seconds(seconds: float) -> str:
    """A duration: `0.4 s`, `42 s`, `3:20 min`, `2:05 h`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 100:
        return f"{minutes}:{rest:02} min"
    return f"{minutes // 60}:{minutes % 60:02} h"


_DIGITS = re.compile(r"\d+", re.ASCII)


def natural_keys(names: Sequence[str]) -> list[str]:
    """Keys that sort names as people do: `layers.2` before `layers.10`.

    A run of digits is prefixed with its length, so that plain string order is number order.
    """
    seen: dict[str, str] = {}

    def key(match: re.Match[str]) -> str:
        run = match[0]
        if (known := seen.get(run)) is None:
            digits = run.lstrip("0") or "0"
            # One character per length: beyond the range of digits that any real name has,
            # the length saturates and the digits decide.
            known = seen[run] = chr(48 + min(len(digits), 200)) + digits
        return known

    joined = "\n".join(names)
    if joined.count("\n") == max(0, len(names) - 1):
        # One substitution over everything is half the cost of one per name.
        return _DIGITS.sub(key, joined).split("\n") if names else []
    return [_DIGITS.sub(key, name) for name in names]


#: A number, or the contract's word for one that JSON has not.
Number = float | int | Literal["nan", "inf", "-inf"]


def json_number(number: float | int) -> Number:
    """A number as JSON takes it: NaN and infinities as the contract has them."""
    if isinstance(number, int) or math.isfinite(number):
        return number
    return "nan" if number != number else "inf" if number > 0 else "-inf"


def json_literal(value: Any) -> Any:
    """A plain value as JSON takes it: keys as text, NaN and infinities as the contract has them."""
    if type(value) is float:
        return json_number(value)
    if type(value) in (list, tuple):
        return [json_literal(item) for item in value]
    if type(value) is dict:
        return {
            k if type(k) is str else str(json_literal(k)): json_literal(v) for k, v in value.items()
        }
    return value


def format_literal(value: Any, max_chars: int = 200) -> str:
    """A plain value as Python writes it, printable and cut."""
    return printable(repr(value), max_chars)
