"""`repair`: look, plan, and do it in a new folder that gets its name only if it is sound.

The rule this module keeps: nothing is guessed. What nothing proves is done on request alone and
said; what comes out must pass `check --deep`, or it is thrown away.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

from inspector.checkpoint.dcp import METADATA, read_dcp
from inspector.checkpoint.find.locate import locate_one, read_checkpoint
from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.storage.base import Storage
from inspector.checkpoint.storage.local import LocalStorage
from inspector.checkpoint.text import printable
from inspector.checks.findings import DeepReport, Report
from inspector.checks.judge import check_storage, judge
from inspector.checks.payload.deep import DeepRequest, Line, check_deep
from inspector.errors import (
    Cancelled,
    InspectError,
    MetadataError,
    NotACheckpointError,
    StorageError,
    UsageError,
)
from inspector.repair.folder import CarriedFiles, NewFolder
from inspector.repair.other_step import plan_like, take_from
from inspector.repair.plan import RepairPlan, RepairStep, Unrepaired
from inspector.repair.planner import plan_repair
from inspector.verify.import_path import clean_environment, empty_folder
from inspector.verify.machine import examine

__all__ = ["RepairReport", "RepairRequest", "RepairVerdict", "repair"]

_UNSURE = "it is whole, but not all of it is as the files are: it may be of another save"

RepairVerdict: TypeAlias = Literal[
    "sound", "repairable", "partly-repairable", "not-repairable", "repaired", "not-repaired"
]


@dataclass(frozen=True, slots=True)
class RepairRequest:
    """What is asked for.

    Attributes:
        output: The new folder, or None for the plan alone.
        like: Another step of the run, whose metadata may stand for a lost one; or None.
        older: A step that lost entries are taken from, or None.
        likely: Also do what nothing proves.
        is_copy: Copy files, though they could be linked.
        python: The interpreter whose torch writes metadata; empty for this one.
    """

    output: str | None = None
    like: str | None = None
    older: str | None = None
    likely: bool = False
    is_copy: bool = False
    python: str = ""


@dataclass(frozen=True, slots=True)
class RepairReport:
    """What came of it.

    Attributes:
        path: The checkpoint's, as it was given.
        output: The new folder, raw, or None.
        verdict: `sound`: there was nothing to do. Without OUT `repairable`, `partly-repairable`
            or `not-repairable`; with it `repaired` or `not-repaired`, and then OUT is not there.
        before: What `check --deep` said of the checkpoint.
        plan: What is, or would be, done.
        after: What `check --deep` said of the result, or None.
        carried: How its files were made, or None.
        torch: The version that wrote the new metadata, or None.
    """

    path: str
    output: str | None
    verdict: RepairVerdict
    before: Report
    plan: RepairPlan
    after: Report | None = None
    carried: CarriedFiles | None = None
    torch: str | None = None

    @property
    def exit_code(self) -> int:
        """0: sound, or repaired and sound; 1: damaged; 2: it cannot be read at all."""
        if self.verdict in ("sound", "repaired"):
            return 0
        is_unread = self.before.exit_code == 2 and not self.plan.steps
        return 2 if is_unread else 1


def repair(path: str, request: RepairRequest, line: Line) -> RepairReport:
    """Say what can be done about a checkpoint, and do it where that was asked.

    Args:
        path: The checkpoint.
        request: What is asked for; the caller has asked `refuse_output`.
        line: Told of the progress of reading payloads.

    Raises:
        UsageError: It is remote, or no DCP checkpoint.
        StorageError: It cannot be read, or the new folder cannot be written.
        Cancelled: It was told to stop.
    """
    storage = locate_one(path)
    if storage.local_path("") is None:
        raise UsageError(
            f"{printable(path)} is not on this machine", "copy it here first: repair makes links"
        )
    deep = _Deep(line)
    before, checkpoint = _look(storage, deep)
    if checkpoint is not None and checkpoint.format != "dcp":
        raise UsageError(
            f"{printable(path)} is safetensors",
            "repair is for DCP checkpoints; see check and export",
        )
    if checkpoint is not None and before.exit_code == 0:
        return RepairReport(path, request.output, "sound", before, RepairPlan(path, None))
    plan = _plan(storage, before, checkpoint, request, deep)
    if request.output is None or not plan.is_complete:
        verdict: RepairVerdict = "not-repaired"
        if request.output is None:
            kinds = plan.steps, plan.unrepaired
            verdict = "partly-repairable" if all(kinds) else "not-repairable"
            verdict = "repairable" if plan.is_complete else verdict
        return RepairReport(path, request.output, verdict, before, plan)
    return _carry_out(path, storage, before, plan, request, deep)


class _Deep:
    """Reads every payload; stopped, it ends the whole."""

    def __init__(self, line: Line) -> None:
        self._line = line

    def __call__(self, checkpoint: Checkpoint, storage: Storage) -> DeepReport:
        report = check_deep(checkpoint, storage, DeepRequest(True, False), self._line)
        if report.is_cancelled:
            raise Cancelled("the repair was stopped, and nothing was written")
        return report


def _look(storage: Storage, deep: _Deep) -> tuple[Report, Checkpoint | None]:
    read: list[Checkpoint] = []
    report = check_storage(storage, deep=deep, on_read=read.append)
    return report, read[0] if read else None


def _plan(
    storage: Storage,
    before: Report,
    checkpoint: Checkpoint | None,
    request: RepairRequest,
    deep: _Deep,
) -> RepairPlan:
    plan: RepairPlan | None = None
    found = _own_plan(storage, before, checkpoint, request, deep)
    if found is not None:
        own, plan = found
        if plan.unrepaired and request.older is not None:
            plan = _with_older(plan, own, request.older)
        if plan.is_complete:
            return plan
    if request.like is not None:
        other = _other("--like", request.like)
        words = before.findings[0].message if before.findings else "damaged"
        like = plan_like(storage, words, read_checkpoint(other), other)
        if like.is_complete or plan is None or not plan.steps:
            return like
    return plan or _hopeless(storage, before)


def _hopeless(storage: Storage, before: Report) -> RepairPlan:
    hint = "--like OTHER_STEP takes the metadata of another step of the run"
    return RepairPlan(
        storage.root,
        None,
        (),
        tuple(
            Unrepaired(f.fqn, f.file, f.code, f.message, hint)
            for f in before.findings
            if f.severity == "error"
        )
        or (Unrepaired(None, None, "", "not all of it could be read"),),
    )


def _own_plan(
    storage: Storage,
    before: Report,
    checkpoint: Checkpoint | None,
    request: RepairRequest,
    deep: _Deep,
) -> tuple[Checkpoint, RepairPlan] | None:
    """The plan by metadata that lies in the folder, under whatever name."""
    local = storage.local_path(METADATA) or METADATA
    if checkpoint is not None:
        if checkpoint.per_rank_metadata:
            why = "each rank wrote metadata of its own, which is not written anew"
            plan = RepairPlan(storage.root, None, (), (Unrepaired(None, None, "", why),))
            return checkpoint, plan
        return checkpoint, plan_repair(
            checkpoint, storage, before, metadata=local, likely=request.likely
        )
    best: tuple[Checkpoint, RepairPlan] | None = None
    for name, other in _renamed(storage):
        step = RepairStep(
            "metadata-name",
            "proven",
            None,
            METADATA,
            name,
            METADATA,
            "it is whole: torch gives it this name last, when every data file is written, and each "
            "entry was found in the files",
        )
        plan = plan_repair(
            other,
            storage,
            judge(other, storage, deep=deep),
            metadata=storage.local_path(name) or name,
            likely=request.likely,
            first=[step],
        )
        if len(plan.steps) > 1 and not request.likely:
            why = (
                f"{printable(name)} is whole, but not all of it is as the files are: it may be of "
                "another save; --allow-likely takes it"
            )
            left = Unrepaired(None, METADATA, "", why)
            plan = replace(plan, unrepaired=(*plan.unrepaired, left))
        elif len(plan.steps) > 1:
            rest = plan.steps[1:]
            plan = replace(plan, steps=(replace(step, basis="likely", why=_UNSURE), *rest))
        if best is None or (plan.is_complete and not best[1].is_complete):
            best = other, plan
    return best


def _renamed(storage: Storage) -> Iterator[tuple[str, Checkpoint]]:
    """Metadata under other names than its own."""
    names = [
        entry.name
        for entry in storage.list()
        if entry.kind == "file"
        and entry.name != METADATA
        and (
            entry.name == METADATA + ".tmp"
            or entry.name.casefold().lstrip("._") == METADATA.lstrip(".")
        )
    ]
    for name in names:
        try:
            yield name, read_dcp(storage, metadata=name)
        except (NotACheckpointError, MetadataError):
            continue


def _other(option: str, path: str) -> Storage:
    storage = locate_one(path)
    if storage.local_path("") is None:
        raise UsageError(f"{option} {printable(path)} is not on this machine", "copy it here first")
    return storage


def _with_older(plan: RepairPlan, checkpoint: Checkpoint, path: str) -> RepairPlan:
    storage = _other("--from", path)
    older = read_checkpoint(storage)
    if older.format != "dcp":
        raise UsageError(f"--from {printable(path)} is no DCP checkpoint")
    return take_from(plan, checkpoint, older, storage, judge(older, storage))


def _carry_out(
    path: str,
    storage: Storage,
    before: Report,
    plan: RepairPlan,
    request: RepairRequest,
    deep: _Deep,
) -> RepairReport:
    output = request.output or ""
    report = RepairReport(path, output, "not-repaired", before, plan)
    python = ""
    if plan.edits or plan.is_other_save:
        # A file's name alone is mended without torch.
        python = examine(request.python, storage.local_path("") or "").path
    with NewFolder(output, is_copy=request.is_copy) as folder:
        folder.fill(plan, storage.local_path("") or "")
        torch = None
        if plan.edits or plan.is_other_save:
            try:
                torch = write_metadata(plan, os.path.join(folder.path, METADATA), python)
            except RewriteRefusedError as error:
                left = Unrepaired(None, METADATA, "", error.message, error.hint)
                return replace(report, plan=replace(plan, unrepaired=(left,)))
        after, _ = _look(LocalStorage(folder.path), deep)
        report = replace(report, after=after, carried=folder.carried, torch=torch)
        if after.exit_code:
            return replace(report, plan=replace(plan, unrepaired=tuple(_still_wrong(after))))
        folder.publish()
    return replace(report, verdict="repaired")


def _still_wrong(after: Report) -> Iterator[Unrepaired]:
    for finding in after.findings:
        if finding.severity == "error":
            why = f"after all steps: {finding.message}"
            yield Unrepaired(finding.fqn, finding.file, finding.code, why, finding.hint)
    for left in after.checked.not_checked:
        yield Unrepaired(None, None, "", f"{left.what} could not be checked: {left.why}")


_PROGRAM = Path(__file__).with_name("rewriter.py")
_BASE_S = 180
# torch makes some 100,000 chunks a second; the bound is for what never ends.
_BYTES_PER_S = 1 << 20


class RewriteRefusedError(InspectError):
    """The metadata holds what is not written anew."""


def write_metadata(plan: RepairPlan, target: str, python: str) -> str:
    """Write the plan's `.metadata` by torch itself, in a process of its own (`rewriter.py`).

    Args:
        plan: The plan; it has metadata to start from.
        target: Where to; nothing is there.
        python: The interpreter whose torch writes it; empty for this one.

    Returns:
        The version of that torch.

    Raises:
        RewriteRefusedError: The metadata holds what is not written anew.
        StorageError: It could not be written.
    """
    python = python or sys.executable
    if plan.metadata is None:
        raise RewriteRefusedError("there is no metadata to start from")
    source = os.path.abspath(plan.metadata)
    limit_s = _BASE_S + os.path.getsize(source) // _BYTES_PER_S
    request = {
        "source": source,
        "target": os.path.abspath(target),
        "edits": [asdict(edit) for edit in plan.edits],
        "is_other_save": plan.is_other_save,
        "cpu_s": limit_s,
    }
    isolation = ["-P"] if sys.version_info >= (3, 11) and python == sys.executable else []
    try:
        with empty_folder() as folder:
            done = subprocess.run(  # noqa: S603 - the interpreter that the user named, or ours
                [python, *isolation, str(_PROGRAM)],
                input=json.dumps(request).encode("ascii"),
                capture_output=True,
                timeout=limit_s,
                check=False,
                cwd=folder,
                env=clean_environment(inspected=plan.path),
            )
        answer = json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired as error:
        raise StorageError(f"torch did not write the metadata within {limit_s} s") from error
    except (OSError, ValueError, LookupError) as error:
        raise StorageError(
            "the process that writes the metadata died", "run it again; --debug shows where"
        ) from error
    if "refused" in answer:
        raise RewriteRefusedError(
            f"the metadata is not written anew: {printable(answer['refused'])}"
        )
    if "failed" in answer:
        raise StorageError(f"torch could not write the metadata: {printable(answer['failed'])}")
    return str(answer["torch"])
