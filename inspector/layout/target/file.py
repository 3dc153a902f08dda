"""The file of `--placements`: a pattern of names, and what the axes do to the tensors.

    # TOML: a line for each pattern; of several that match, the last counts
    "layers.*.attn.wq.weight" = "tp:0"
    "layers.*.attn.wo.weight" = "tp:1"
    "norm.*" = "replicate"

    [stages]                     # for --stage: which pipeline stages hold what, counted from 1
    "layers.[01].*" = "1"
    "layers.[23].*" = "2"
    "step" = "1,2"

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
from typing import NamedTuple

from inspector.checkpoint.text import printable
from inspector.errors import UsageError

__all__ = [
    "PlacementFile",
    "PlacementLine",
    "StageLine",
    "parse_placement_file",
    "read_placement_file",
]

_MAX_BYTES = 1 << 20
_STRING = r"""(?:"(?:[^"\\]|\\.)*"|'[^']*')"""
_LINE = re.compile(rf"\s*({_STRING}|[A-Za-z0-9_-]+)\s*=\s*({_STRING})\s*(?:#.*)?\Z")
_BLANK = re.compile(r"\s*(?:#.*)?\Z")
_TABLE = re.compile(r"\s*\[\s*(placements|stages)\s*\]\s*(?:#.*)?\Z")
_PART = re.compile(r"([A-Za-z_]\w{0,39})\s*:\s*(-?\d{1,3}|replicate)\Z", re.ASCII)
_NUMBERS = re.compile(r"\d{1,4}(?:\s*,\s*\d{1,4})*\Z", re.ASCII)
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


@dataclass(frozen=True, slots=True)
class StageLine:
    """One line of `[stages]`: the entries that it is for, and the stages that hold them.

    Attributes:
        pattern: As of `PlacementLine`; of tensors and bytes entries alike.
        stages: Their numbers, from 1 on; empty for every stage.
    """

    pattern: str
    stages: tuple[int, ...] = ()

    @property
    def regex(self) -> re.Pattern[str]:
        return re.compile(translate(self.pattern))

    @classmethod
    def parse(cls, pattern: str, value: str) -> StageLine:
        """Reads `2`, `1,4`, `all`.

        Raises:
            UsageError: The value is none of these.
        """
        value = value.strip()
        if value == "all":
            return cls(pattern)
        numbers = [int(n) for n in value.split(",")] if _NUMBERS.match(value) else []
        if not numbers or 0 in numbers or len(set(numbers)) < len(numbers):
            raise UsageError(
                f"--placements: {value[:60]!a} names no stages",
                'under [stages] write "1", "1,4" or "all": stages are counted from 1',
            )
        return cls(pattern, tuple(numbers))

    def __str__(self) -> str:
        """The value, as it is written."""
        return ",".join(map(str, self.stages)) or "all"


class PlacementFile(NamedTuple):
    """What the file says.

    Attributes:
        placements: Its placements.
        stages: The lines of its `[stages]`.
    """

    placements: tuple[PlacementLine, ...] = ()
    stages: tuple[StageLine, ...] = ()


def read_placement_file(path: str) -> PlacementFile:
    """Reads the file, once: it may be a pipe.

    Raises:
        UsageError: It cannot be read, or a line of it is neither placement nor stage.
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
    return parse_placement_file(text.splitlines())


def parse_placement_file(lines: Iterable[str]) -> PlacementFile:
    """What lines of text say.

    Raises:
        UsageError: A line is neither placement nor stage, or a pattern is there twice.
    """
    placements: dict[str, PlacementLine] = {}
    stages: dict[str, StageLine] = {}
    is_of_stages = False
    for number, text in enumerate(lines, 1):
        if _BLANK.match(text):
            continue
        if (table := _TABLE.match(text)) is not None:
            is_of_stages = table[1] == "stages"
            continue
        match = _LINE.match(text)
        if match is None:
            raise UsageError(
                f"--placements: line {number} is no placement: {text.strip()[:60]!a}", _HINT
            )
        pattern, value = _unquoted(match[1], number), _unquoted(match[2], number)
        if pattern in (stages if is_of_stages else placements):
            raise UsageError(f"--placements: line {number} has {pattern[:60]!a} once more")
        if is_of_stages:
            stages[pattern] = StageLine.parse(pattern, value)
        else:
            placements[pattern] = PlacementLine.parse(pattern, value)
    return PlacementFile(tuple(placements.values()), tuple(stages.values()))


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
