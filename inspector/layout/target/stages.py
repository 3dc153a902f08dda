"""`StageKeys`: the entries of a checkpoint that one pipeline stage loads.

The rule this module keeps: an entry is left out of a stage only if something says that it is
another's. That is a line of `[stages]` in the file of `--placements`, or else the files: ranks that
share no tensor with the others (`StageGroups`, evidence and no proof) held its pieces alone, or all
that they held of its numbered module. What nothing assigns to a stage goes with each, and is
counted. Where neither tells there is no answer: no stages are made by counting layers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.text import format_ranks, plural, printable
from inspector.errors import UsageError
from inspector.layout.geometry import Ints
from inspector.layout.target.file import StageLine
from inspector.layout.writer.stages import StageGroups, module_of

if TYPE_CHECKING:
    from inspector.layout.writer.written_by import WrittenBy

__all__ = ["StageKeys", "StageRequest", "stage_keys", "stages_by_files"]

_REQUEST = re.compile(r"(all|\d{1,4})/(\d{1,4})\Z", re.ASCII)
_MAX_STAGES = 1024
#: Tensors in one piece beyond the first of each module that have to lie together, if no piece of a
#: cut one tells: less may lie so by chance.
_ENOUGH_TOGETHER = 6
_Stages = frozenset[int] | None


@dataclass(frozen=True, slots=True)
class StageRequest:
    """What `--stage` asks for: `2/4`, the second of four stages, or `all/4`, each in turn.

    Attributes:
        number: The stage, from 1 on; None for all.
        count: How many there are.
    """

    number: int | None
    count: int

    @classmethod
    def parse(cls, text: str) -> StageRequest:
        """Reads `2/4` or `all/4`.

        Raises:
            UsageError: It is neither.
        """
        match = _REQUEST.match(text.strip())
        number = None if match is None or match[1] == "all" else int(match[1])
        count = 0 if match is None else int(match[2])
        if not 1 <= count <= _MAX_STAGES or (number is not None and not 1 <= number <= count):
            raise UsageError(
                f"--stage {text[:40]!a} is no stage",
                "write 2/4 for the second of four pipeline stages, or all/4 for each in turn",
            )
        return cls(number, count)

    def __str__(self) -> str:
        return f"{'all' if self.number is None else self.number}/{self.count}"

    @property
    def numbers(self) -> tuple[int, ...]:
        return tuple(range(1, self.count + 1)) if self.number is None else (self.number,)


@dataclass(frozen=True, slots=True)
class StageKeys:
    """The entries of one stage.

    Attributes:
        number: The stage, from 1 on.
        count: How many there are.
        tensors: Indices of its tensors, in the order of the state dict.
        entries: Indices of its bytes entries, likewise.
        told_by: `placements` (the lines of `[stages]`) or `checkpoint` (its files).
        because: What that rests on, for people: `as [stages] of --placements says`.
        num_shared: How many of its entries go with every stage, as nothing assigns them to one.
        left_out: Raw names of the entries that other stages hold.
    """

    number: int
    count: int
    tensors: tuple[int, ...]
    entries: tuple[int, ...]
    told_by: Literal["placements", "checkpoint"]
    because: str
    num_shared: int
    left_out: tuple[str, ...]

    @property
    def words(self) -> str:
        """`stage 2 of 4: 9 entries, all as [stages] ... says; 20 of other stages left out`."""
        num = len(self.tensors) + len(self.entries)
        text = f"stage {self.number} of {self.count}: {plural(num, 'entry', 'entries')}"
        own = "all" if not self.num_shared else f"{num - self.num_shared:,}"
        text += f", {own} {self.because}"
        if self.num_shared:
            text += f", {self.num_shared:,} because nothing says of which stage"
        left = plural(len(self.left_out), "entry", "entries")
        return f"{text}; {left} of other stages left out"


def stage_keys(
    checkpoint: Checkpoint,
    request: StageRequest,
    lines: Sequence[StageLine] = (),
    written_by: WrittenBy | None = None,
) -> tuple[StageKeys, ...]:
    """The entries of the stages that are asked for.

    Args:
        checkpoint: The checkpoint.
        request: Which stages.
        lines: `[stages]` of the file; they alone count if there are any.
        written_by: Who wrote the checkpoint.

    Raises:
        UsageError: Nothing tells which entries a stage holds, or the lines are of other stages.
    """
    names = checkpoint.fqns
    told_by: Literal["placements", "checkpoint"] = "placements" if lines else "checkpoint"
    if lines:
        held = _by_lines(names, request, lines)
        because = dict.fromkeys(request.numbers, "as [stages] of --placements says")
    else:
        groups = None if written_by is None else written_by.partition
        if groups is None or len(groups.stages) != request.count:
            raise UsageError(
                f"--stage {request}: the checkpoint does not tell which entries a stage of "
                f"{request.count} holds: {_why_not(groups)}",
                'lines such as "layers.[01].*" = "1" under [stages] in the file of --placements do',
            )
        held = _by_files(checkpoint, names, groups)
        because = {
            n: f"because {_ranks(stage.ranks)} alone held them, by what the files show (no proof)"
            for n, stage in enumerate(groups.stages, 1)
        }
    found = []
    num_tensors = checkpoint.num_tensors
    for number in request.numbers:
        taken = [i for i in checkpoint.order.tolist() if _is_in(held[i], number)]
        chosen = set(taken)
        found.append(
            StageKeys(
                number,
                request.count,
                tuple(i for i in taken if i < num_tensors),
                tuple(i - num_tensors for i in taken if i >= num_tensors),
                told_by,
                because[number],
                sum(held[i] is None for i in taken),
                tuple(names[i] for i in checkpoint.order.tolist() if i not in chosen),
            )
        )
        if all(held[i] is None for i in taken):
            raise UsageError(f"--stage {request}: no entry is of stage {number} alone or by name")
    return tuple(found)


def _is_in(stages: _Stages, number: int) -> bool:
    return stages is None or number in stages


def _ranks(ranks: Sequence[int]) -> str:
    return f"{'rank' if len(ranks) == 1 else 'ranks'} {format_ranks(ranks)}"


def _why_not(groups: StageGroups | None) -> str:
    if groups is None:
        return "no ranks that share no tensor with the others show in its files"
    return f"its files show {plural(len(groups.stages), 'group')} of ranks that share no tensor"


def _by_lines(
    names: Sequence[str], request: StageRequest, lines: Sequence[StageLine]
) -> list[_Stages]:
    """The stages of each entry: the last line that matches counts, None where none does."""
    for line in lines:
        if max(line.stages, default=0) > request.count:
            raise UsageError(
                f"--placements: {printable(line.pattern, 60)} is of stage {max(line.stages)}, and "
                f"--stage {request} has {plural(request.count, 'stage')}"
            )
    matches = [(line.regex, frozenset(line.stages) or None) for line in lines]
    for line, (regex, _) in zip(lines, matches, strict=True):
        if not any(map(regex.match, names)):
            raise UsageError(
                f"--placements: {printable(line.pattern, 80)} under [stages] matches no entry",
                "names are those that `show` lists; * stands for any characters",
            )
    back = matches[::-1]
    return [next((stages for regex, stages in back if regex.match(n)), None) for n in names]


def stages_by_files(checkpoint: Checkpoint, written_by: WrittenBy) -> list[_Stages] | None:
    """The stages of each entry, numbered as in `Checkpoint.order`, by what the files show.

    Returns:
        The same as `stage_keys` takes them for; of an entry None where nothing assigns it to one.
        None where there are no ranks that share no tensor with the others.
    """
    if written_by.partition is None:
        return None
    return _by_files(checkpoint, checkpoint.fqns, written_by.partition)


def _by_files(checkpoint: Checkpoint, names: Sequence[str], groups: StageGroups) -> list[_Stages]:
    """The stage of each entry: that of its pieces, or of its numbered module."""
    num = checkpoint.num_tensors
    home, is_cut = np.zeros(num, dtype=np.int64), np.zeros(num, dtype=bool)
    for number, stage in enumerate(groups.stages, 1):
        home[list(stage.tensors)] = number
        for use in stage.uses:
            is_cut[use.tensors] |= bool(use.cut.touched)
    modules = [module_of(name) for name in names]
    owner = _owners(modules[:num], home, is_cut)
    found: list[_Stages] = []
    for entry, module in enumerate(modules):
        if entry < num and is_cut[entry]:
            found.append(frozenset((int(home[entry]),)))
        else:
            one = None if module is None else owner.get(module)
            found.append(None if one is None else frozenset((one,)))
    return found


def _owners(
    modules: Sequence[tuple[str, int] | None], home: Ints, is_cut: npt.NDArray[np.bool_]
) -> dict[tuple[str, int], int]:
    """The stage of each numbered module: where its cut tensors lie.

    Without any, all whole tensors of each module of the family have to lie together, and be so many
    that this is no chance.
    """
    of_cut: dict[tuple[str, int], set[int]] = {}
    of_whole: dict[str, dict[int, list[int]]] = {}
    for tensor, module in enumerate(modules):
        if module is None or not home[tensor]:
            continue
        stage = int(home[tensor])
        if is_cut[tensor]:
            of_cut.setdefault(module, set()).add(stage)
        else:
            of_whole.setdefault(module[0], {}).setdefault(module[1], []).append(stage)
    found = {module: stages.copy().pop() for module, stages in of_cut.items() if len(stages) == 1}
    for family, members in of_whole.items():
        if any(module[0] == family for module in of_cut):
            continue
        together = sum(len(stages) - 1 for stages in members.values())
        if together >= _ENOUGH_TOGETHER and all(len(set(s)) == 1 for s in members.values()):
            found |= {(family, n): stages[0] for n, stages in members.items()}
    return found
