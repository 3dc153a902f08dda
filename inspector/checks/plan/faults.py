"""Errors of a checkpoint itself that a planned load runs into."""

from __future__ import annotations

from collections.abc import Iterable

from inspector.checks.findings import Finding
from inspector.layout.reads.load_plan import LoadPlan
from inspector.layout.target.stages import StageKeys

__all__ = ["of_stage", "untold"]


def untold(findings: Iterable[Finding], problems: Iterable[Finding]) -> list[Finding]:
    """The errors among findings, save those that are told already as problems of a load.

    Args:
        findings: What checks of the checkpoint found.
        problems: What is told already, rank by rank: the same code and name, or file, is the same.
    """
    told = {(problem.code, problem.fqn or problem.file) for problem in problems}
    return [f for f in findings if f.severity == "error" and (f.code, f.fqn or f.file) not in told]


def of_stage(plan: LoadPlan, stage: StageKeys | None, findings: Iterable[Finding]) -> list[Finding]:
    """The findings that concern what a stage loads: not entries and files of others alone.

    Args:
        plan: The plan of the stage's entries.
        stage: The stage; None for all entries, which all concern.
        findings: What was found in the whole checkpoint.
    """
    if stage is None:
        return list(findings)
    left_out = set(stage.left_out)
    files = plan.checkpoint.files
    read = {files[i].path for i in set(plan.items.groups.file.tolist()) if i >= 0}
    others = {file.path for file in files if file.num_payloads} - read
    return [
        f
        for f in findings
        if (f.fqn not in left_out if f.fqn is not None else f.file not in others)
    ]
