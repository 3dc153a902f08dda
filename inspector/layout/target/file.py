"""The file of `--placements`: a pattern of names, and what the axes do to the tensors.

    # TOML: a line for each pattern; of several that match, the last counts
    "layers.*.attn.wq.weight" = "tp:0"
    "layers.*.attn.wo.weight" = "tp:1"
    "norm.*" = "replicate"

The rule this module keeps: what is no such line is refused, with its number. The lines are TOML;
tables, lists and numbers say nothing here, and Python 3.10 has no reader of TOML.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import translate
from pathlib import Path

from inspector.checkpoint.text import printable
from inspector.errors import UsageError

__all__ = ["PlacementLine", "parse_placements", "read_placements"]

_MAX_BYTES = 1 << 20
_STRING = r"""(?:"(?:[^"\\]|\\.)*"|'[^']*')"""
_LINE = re.compile(rf"\s*({_STRING}|[A-Za-z0-9_-]+)\s*=\s*({_STRING})\s*(?:#.*)?\Z")
_BLANK = re.compile(r"\s*(?:#.*)?\Z")
_TABLE = re.compile(r"\s*\[\s*placements\s*\]\s*(?:#.*)?\Z")
_PART = re.compile(r"([A-Za-z_]\w{0,39})\s*:\s*(-?\d{1,3}|replicate)\Z", re.ASCII)
_HINT = 'a line is "layers.*.wq.weight" = "tp:0"'


@dataclass(frozen=True, slots=True)
class PlacementLine:
    """One line: the tensors that it is for, and the dim that each axis cuts.

    Attributes:
        pattern: A name with `*`, `?` and `[...]`, as of a shell; `*` crosses dots.
        dims: (axis, dim); a dim of None is a copy on every rank of the axis. Axes that are not
            named do what FSDP's rule says.
        is_whole: Every rank holds all of it.
    """

    pattern: str
    dims: tuple[tuple[str, int | None], ...] = ()
    is_whole: bool = False

    @property
    def axes(self) -> tuple[str, ...]:
        return tuple(axis for axis, _ in self.dims)

    @property
    def regex(self) -> re.Pattern[str]:
        return re.compile(translate(self.pattern))

    @classmethod
    def parse(cls, pattern: str, value: str) -> PlacementLine:
        """Reads `tp:0`, `tp:0,dp_shard:1`, `tp:replicate`, `replicate`.

        Raises:
            UsageError: The value is none of these.
        """
        if value.strip() == "replicate":
            return cls(pattern, is_whole=True)
        parts = [_PART.match(part.strip()) for part in value.split(",")]
        found = [(p[1], None if p[2] == "replicate" else int(p[2])) for p in parts if p]
        if len(found) < len(parts) or len({axis for axis, _ in found}) < len(found):
            raise UsageError(
                f"--placements: {value[:60]!a} is no placement",
                'write "tp:0" (axis and dim), "tp:0,dp_shard:1", or "replicate"',
            )
        return cls(pattern, tuple(found))

    def __str__(self) -> str:
        """The value, as it is written."""
        if self.is_whole:
            return "replicate"
        return ",".join(f"{axis}:{'replicate' if d is None else d}" for axis, d in self.dims)


def read_placements(path: str) -> tuple[PlacementLine, ...]:
    """Reads the file.

    Raises:
        UsageError: It cannot be read, or a line of it is no placement.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"--placements {printable(path)}: {error.strerror}") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"--placements {printable(path)}: it is no text", _HINT) from error
    if len(data) > _MAX_BYTES:
        raise UsageError(f"--placements {printable(path)}: it is larger than a mebibyte", _HINT)
    return parse_placements(text.splitlines())


def parse_placements(lines: Iterable[str]) -> tuple[PlacementLine, ...]:
    """The placements of lines of text.

    Raises:
        UsageError: A line is no placement, or a pattern is there twice.
    """
    found: dict[str, PlacementLine] = {}
    for number, text in enumerate(lines, 1):
        if _BLANK.match(text) or _TABLE.match(text):
            continue
        match = _LINE.match(text)
        if match is None:
            raise UsageError(
                f"--placements: line {number} is no placement: {text.strip()[:60]!a}", _HINT
            )
        pattern, value = _unquoted(match[1], number), _unquoted(match[2], number)
        if pattern in found:
            raise UsageError(f"--placements: line {number} has {pattern[:60]!a} once more")
        found[pattern] = PlacementLine.parse(pattern, value)
    return tuple(found.values())


def _unquoted(text: str, number: int) -> str:
    if text.startswith("'"):
        return text[1:-1]
    if not text.startswith('"'):
        return text
    try:
        return str(json.loads(text))
    except ValueError as error:
        raise UsageError(
            f"--placements: line {number} has an escape that is not known", _HINT
        ) from error
