"""The step that a checkpoint's folder is named by, and the one that it says it is of itself."""

from __future__ import annotations

import re
from collections.abc import Iterator

from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.payload.array import read_chunk
from inspector.checkpoint.payload.scan.literals import read_literal
from inspector.checkpoint.storage.base import Storage
from inspector.checkpoint.text import printable
from inspector.checks.findings import Finding
from inspector.errors import InspectError

__all__ = ["check_steps"]

# A folder named by a step, not by an epoch or just a number; the step's folder may have parts.
_FOLDER = re.compile(r"(?:global_?)?(?:step|iter(?:ation)?|checkpoint)s?[-_=]?0*(\d{1,15})\Z", re.I)
_NAMES = frozenset({"step", "global_step", "iteration", "current_step", "train_step"})
# Of these a step may count otherwise: batches, updates of a schedule, of one parameter.
_COUNT_OTHERWISE = ("optim", "sched", "data", "load", "ema", "scal", "sampl")
_NOT_ABOVE = frozenset({"state", "model"})
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
                    "warning",
                    f"{printable(fqn, 120)} is {step}, and the folder is named by step {named}",
                    "loads it: training goes on from the step that is stored",
                    "what was saved may be what an earlier resume had loaded, not what was in use: "
                    "compare with the checkpoints before it (hsdp-inspect diff)",
                    fqn=fqn,
                    file=file,
                )
            )
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
