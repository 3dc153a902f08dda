"""Writes a new `.metadata` by torch itself, in a process of its own (`rewriter.py`)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from inspector.checkpoint.text import printable
from inspector.errors import InspectError, StorageError
from inspector.repair.plan import RepairPlan
from inspector.verify.import_path import clean_environment, empty_folder

__all__ = ["RewriteRefusedError", "write_metadata"]

_PROGRAM = Path(__file__).with_name("rewriter.py")
_BASE_S = 180
# torch makes some 100,000 chunks a second; the bound is for what never ends.
_BYTES_PER_S = 1 << 20


class RewriteRefusedError(InspectError):
    """The metadata holds what is not written anew."""


def write_metadata(plan: RepairPlan, target: str, python: str) -> str:
    """Write the plan's metadata.

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
