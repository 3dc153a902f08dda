"""The step that a checkpoint's folder is named by, and the one that it says it is of itself.

A file of another save in the place of one of this may have every size right. What tells is that the
optimizer counts its steps for each parameter, and that DCP spreads these numbers over all files.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.payload.array import read_chunk
from inspector.checkpoint.payload.scan.literals import read_literal
from inspector.checkpoint.storage.base import Storage
from inspector.checkpoint.text import printable
from inspector.checks.findings import Finding
from inspector.checks.metadata.optimizer import split_state
from inspector.errors import InspectError

__all__ = ["check_file_steps", "check_steps"]

# A folder named by a step, not by an epoch or just a number; the step's folder may have parts.
_FOLDER = re.compile(r"(?:global_?)?(?:step|iter(?:ation)?|checkpoint)s?[-_=]?0*(\d{1,15})\Z", re.I)
_NAMES = frozenset({"step", "global_step", "iteration", "current_step", "train_step"})
# Of these a step may count otherwise: batches, updates of a schedule, of one parameter.
_COUNT_OTHERWISE = ("optim", "sched", "data", "load", "ema", "scal", "sampl")
_NUMBERS = frozenset({"float32", "float64", "int32", "int64"})
_NOT_ABOVE = frozenset({"state", "model"})
#: Steps of an optimizer that are read of a file, and of one that differs.
_FEW, _MANY = 3, 64
_MAX_FILES = 256
_MAX_PARTS = 3
_MAX_READ = 20


def check_steps(checkpoint: Checkpoint, storage: Storage) -> list[Finding]:
    """A warning for each number of its own that is not the folder's.

    Args:
        checkpoint: The checkpoint.
        storage: Its folder; a few payloads are read.
    """
    found_name = _named(checkpoint.path)
    if found_name is None or checkpoint.format != "dcp":
        return []
    named, is_count = found_name
    found = []
    for fqn, file, step in _steps(checkpoint, storage):
        # Some count from zero, some name a folder by the step that comes next. What was saved of
        # an earlier resume is behind; ahead are batches of which several make a step, and steps
        # where the folder counts saves or epochs.
        is_ahead = step > named and (is_count or not step % max(named, 1))
        if abs(step - named) > 1 and not is_ahead:
            found.append(
                Finding(
                    "step-mismatch",
                    f"{printable(fqn, 120)} is {step}, and the folder is named by step {named}",
                    "loads it: training goes on from the step that is stored",
                    "what was saved may be what an earlier resume had loaded, not what was in use: "
                    "compare with the checkpoints before it (hsdp-inspect diff)",
                    fqn=fqn,
                    file=file,
                )
            )
    return found


def check_file_steps(checkpoint: Checkpoint, storage: Storage) -> list[Finding]:
    """A warning for each file all of whose parameters are at another step than all others'.

    None where a file is not at one with itself: then parameters are trained for as many steps as
    each is used. Of a remote storage nothing is read.

    Args:
        checkpoint: The checkpoint.
        storage: Its folder; a few small payloads of each file are read.
    """
    if checkpoint.format != "dcp" or storage.local_path("") is None:
        return []
    found = []
    for prefix, by_file in _counters(checkpoint).items():
        if not 3 <= len(by_file) <= _MAX_FILES:
            continue
        steps = {
            file: _read(checkpoint, storage, numbers[:_FEW]) for file, numbers in by_file.items()
        }
        if any(len(of_file) != 1 for of_file in steps.values()):
            continue
        at = {file: next(iter(of_file)) for file, of_file in steps.items()}
        usual, num = Counter(at.values()).most_common(1)[0]
        others = [file for file, step in at.items() if step != usual]
        if 2 * len(others) > num:
            continue
        for file in others:
            numbers = by_file[file][:_MANY]
            if len(numbers) < _FEW or not _are_spread(checkpoint, numbers, {*others}):
                continue  # The stage of a pipeline may be trained for a time of its own.
            if _read(checkpoint, storage, numbers) == {at[file]}:
                found.append(_of_another(checkpoint, prefix, file, len(numbers), at[file], usual))
    return found


def _of_another(
    checkpoint: Checkpoint, prefix: str, file: int, num: int, step: float, usual: float
) -> Finding:
    path = checkpoint.files[file].path
    optimizer = printable(prefix.rstrip("."), 60)
    return Finding(
        "step-mismatch",
        f"{printable(path, 120)}: its {num:,} parameters of {optimizer} are at step "
        f"{step:g}, those of all other files at step {usual:g}",
        "loads silently a mixture of two saves, if they are of two",
        "the file may be of another save: compare it with the original; no fault if just these "
        "parameters were trained for another number of steps",
        file=path,
    )


def _counters(checkpoint: Checkpoint) -> dict[str, dict[int, list[int]]]:
    """Tensors that count the steps of a parameter, by optimizer and file."""
    columns = checkpoint.columns
    found: dict[str, dict[int, list[int]]] = {}
    for index, fqn in enumerate(columns.fqns):
        split = split_state(fqn) if "step" in fqn else None
        if split is None or split.slot != "step" or columns.num_chunks_of[index] != 1:
            continue
        tensor = columns.tensor(index)
        if tensor.num_elements == 1 and tensor.file[0] >= 0 and tensor.dtype in _NUMBERS:
            of_optimizer = found.setdefault(split.prefix, {})
            of_optimizer.setdefault(int(tensor.file[0]), []).append(index)
    return found


def _are_spread(checkpoint: Checkpoint, numbers: list[int], files: set[int]) -> bool:
    """Whether all of these parameters have other state in other files than some."""
    columns = checkpoint.columns
    names = {columns.fqns[i].removesuffix("step"): False for i in numbers}
    for index, fqn in enumerate(columns.fqns):
        name = fqn[: fqn.rfind(".") + 1]
        if name in names and not fqn.endswith(".step"):
            names[name] |= not {*columns.tensor(index).file.tolist()} <= files
    return all(names.values())


def _read(checkpoint: Checkpoint, storage: Storage, numbers: list[int]) -> set[float]:
    """The numbers that tensors of one element hold; none if one cannot be read."""
    found = set()
    for number in numbers:
        tensor = checkpoint.columns.tensor(number)
        try:
            found.add(float(read_chunk(checkpoint, storage, tensor, 0).reshape(-1)[0]))
        except InspectError:
            return set()
    return found


def _named(path: str) -> tuple[int, bool] | None:
    """The number in a folder's name, and whether it may be one of checkpoints."""
    for part in reversed(path.rstrip("/").split("/")[-2:]):
        found = _FOLDER.search(part)
        if found:
            return int(found[1]), found[0].lower().startswith("checkpoint")
    return None


def _steps(checkpoint: Checkpoint, storage: Storage) -> Iterator[tuple[str, str, int]]:
    """Entries that hold a step: name, file, number."""
    entries = [e for e in checkpoint.bytes_entries if e.file >= 0 and _is_step(e.fqn)]
    for entry in entries[:_MAX_READ]:
        literal = read_literal(checkpoint, storage, entry)
        if literal is not None and type(literal.value) is int:
            yield entry.fqn, checkpoint.files[entry.file].path, literal.value
    numbers = [i for i, fqn in enumerate(checkpoint.columns.fqns) if _is_step(fqn)]
    for number in numbers[:_MAX_READ]:
        tensor = checkpoint.columns.tensor(number)
        if tensor.num_elements != 1 or tensor.num_chunks != 1 or "int" not in tensor.dtype:
            continue
        try:
            value = int(read_chunk(checkpoint, storage, tensor, 0).reshape(-1)[0])
        except InspectError:
            continue
        yield tensor.fqn, checkpoint.files[int(tensor.file[0])].path, value


def _is_step(fqn: str) -> bool:
    parts = fqn.lower().split(".")
    above = parts[:-1]
    return (
        parts[-1] in _NAMES
        and len(parts) <= _MAX_PARTS
        and not any(word in part for part in above for word in _COUNT_OTHERWISE)
        and not _NOT_ABOVE & {*above}
    )
