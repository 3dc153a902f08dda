"""`Found`: a checkpoint that a folder holds; and the folders of the steps that they are parts of.

The rule this module keeps: from names alone. Frameworks save a step as one folder or as several
below one (model, optimizer, data loader; two levels deep at times), and the number of the step is
in the name of the folder that holds them all.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = [
    "Found",
    "State",
    "StepFolder",
    "is_export",
    "part_name",
    "split_step",
    "step_folders",
    "step_number",
]

# `step-100`, `iter_0000100`, `global_step5`, `seen_steps_900`, `epoch=1-step=50`, `ep1-ba20`;
# where one of them is, `checkpoint-7` and `epoch_3` say less.
_WORDS = (
    re.compile(
        r"([a-z]{0,16})[-_]?(?:steps?|iter(?:ation)?s?|(?<![a-z])ba)[-_=]?0*(\d{1,15})(?!\d)", re.I
    ),
    re.compile(r"(?<![a-z])()(?:checkpoints?|ckpts?)[-_=]?0*(\d{1,15})(?!\d)", re.I),
    re.compile(r"(?<![a-z])()(?:epochs?|ep)[-_=]?0*(\d{1,15})(?!\d)", re.I),
)
# `target_steps_1000` is where the training is to end.
_OTHER_STEPS = frozenset({"target", "max", "total", "num", "warmup", "decay"})
_NUMBER = re.compile(r"0*(\d{1,15})\Z")
_WIDE_NUMBER = re.compile(r"\d{4,15}\Z")

# What frameworks call the folders of a step's parts.
_PART = re.compile(
    r"(?:(?:pytorch_model_fsdp|fsdp_model|model|optimizers?|optim)(?:_\d+)?|weights"
    r"|model_and_optim|dist_ckpt|pretrained_model|(?:training|trainer|train|extra)_state|extra"
    r"|data_?loaders?|(?:lr_)?schedulers?|ema(?:_model)?|actor|critic|hf_ckpt|huggingface|consolidated)\Z"
)
# A copy of the model for others to read; no training resumes from it.
_EXPORT = re.compile(r"hf|hf_.*|.*_hf|huggingface|consolidated|merged|exports?|safetensors", re.I)


State = Literal["complete", "unfinished", "unreadable"]


@dataclass(frozen=True, slots=True)
class Found:
    """A checkpoint that a folder holds.

    Attributes:
        path: Relative to the folder that was searched; empty for that folder itself. A file, if
            the folder holds several safetensors checkpoints side by side.
        format: `dcp` or `safetensors`; or `torch_checkpointing`, which is told and not read.
        state: `complete`, `unfinished` or `unreadable`.
        step: Training step, as the path tells it, or None.
        num_bytes: Size of the files in it (not below it).
        num_files: How many.
        modified_s: Newest modification time in it, seconds since the epoch, or None.
        detail: Why it is not complete, or may not be; empty if it is.
        is_file: `path` is a file: the set of safetensors files that it belongs to.
        is_overwritten: True if data files are newer than the metadata, so that a save over a
            `complete` one may have died, or be at work.
    """

    path: str
    format: str
    state: State
    step: int | None
    num_bytes: int
    num_files: int
    modified_s: float | None
    detail: str = ""
    is_file: bool = False
    is_overwritten: bool = False

    @property
    def is_complete(self) -> bool:
        """True if nothing in its listing speaks against it."""
        return self.state == "complete" and not self.is_overwritten

    @property
    def state_word(self) -> str:
        """Its state for a reader: nobody is told `complete` of what may be half written."""
        return "rewritten?" if self.is_overwritten else self.state


@dataclass(frozen=True, slots=True)
class StepFolder:
    """A step's folder and the checkpoints in it.

    Attributes:
        path: Relative to the folder that was searched; empty for that folder itself. Of a
            checkpoint that is no part of a step, its own path.
        step: Its number, or None.
        parts: The checkpoints, by path; at least one.
    """

    path: str
    step: int | None
    parts: tuple[Found, ...]

    @property
    def series(self) -> str:
        """The folder in which the steps of one run lie side by side."""
        return self.path.rpartition("/")[0]

    def name_of(self, part: Found) -> str:
        """A part's path below the step's folder; empty for the folder itself."""
        if part.path == self.path:
            return ""
        return part.path[len(self.path) + 1 :] if self.path else part.path


def step_number(name: str) -> int | None:
    """The step that one name of a path says, or None."""
    for words in _WORDS:
        numbers = [m[2] for m in words.finditer(name) if m[1].lower() not in _OTHER_STEPS]
        if numbers:
            return int(numbers[-1])
    number = _NUMBER.match(name)
    return int(number[1]) if number else None


def split_step(path: str) -> tuple[str, int] | None:
    """The folder in a path that is named after a step, the nearest one, and the step.

    A short number alone (`0`, of a rank or a replica) is one only if no other name has a word.
    """
    names = path.split("/")
    plain: tuple[str, int] | None = None
    for end in range(len(names), 0, -1):
        name = names[end - 1]
        number = step_number(name)
        if number is None:
            continue
        here = "/".join(names[:end]), number
        if not _NUMBER.match(name) or _WIDE_NUMBER.match(name):
            return here
        plain = plain or here
    return plain


def part_name(path: str) -> str:
    """The last name of a path, if it is a part's and not that of a step or of a run."""
    split = split_step(path)
    name = path.rpartition("/")[2]
    return name if _PART.match(name) and (split is None or split[0] != path) else ""


def is_export(name: str) -> bool:
    """True if a part is by its name a copy for others: `hf_ckpt`, `model/consolidated`."""
    return any(_EXPORT.fullmatch(word) for word in name.split("/"))


def step_folders(found: Sequence[Found], root_name: str = "") -> list[StepFolder]:
    """The checkpoints of a folder, those of one step together; in the order of the first of each.

    Args:
        found: What lies in the folder.
        root_name: The folder's own name: a step's folder itself may have been searched.
    """
    root_step = step_number(root_name)
    groups: dict[tuple[str, bool], tuple[int | None, list[Found]]] = {}
    loose: dict[str, list[str]] = {}
    for item in found:
        loose.setdefault(_above_parts(item), []).append(item.path)
    for item in found:
        folder = item.path.rpartition("/")[0] if item.is_file else item.path
        split = split_step(folder) if folder else None
        key, step = (item.path, False), None
        if split is not None and _is_of(split[0], item.path):
            key, step = (split[0], True), split[1]
        elif split is not None:
            step = split[1]
        elif root_step is not None:
            key, step = ("", True), root_step
        elif len(loose[_above_parts(item)]) > 1:
            key = (_above_parts(item), True)
        groups.setdefault(key, (step, []))[1].append(item)
    return [StepFolder(path, step, tuple(items)) for (path, _), (step, items) in groups.items()]


def _is_of(step_path: str, path: str) -> bool:
    """Whether what lies below a folder named by a number is a part of a step, as its names say."""
    if not _NUMBER.match(step_path.rpartition("/")[2]):
        return True
    below = path[len(step_path) + 1 :]
    return not below or _PART.match(below.partition("/")[0]) is not None


def _above_parts(item: Found) -> str:
    """The path without the names at its end that are those of parts; itself if it has none."""
    names = item.path.split("/")
    if item.is_file:
        return item.path
    while names and _PART.match(names[-1]):
        names.pop()
    return "/".join(names)
