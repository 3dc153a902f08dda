"""Whether a folder that the job saved passes `hsdp-inspect check`. Runs on rank 0 only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from inspector.checkpoint import open_checkpoint
from inspector.checkpoint.storage import open_storage
from inspector.checks.judge import judge
from inspector.errors import InspectError
from inspector.verify.compare import Tally
from inspector.verify.comparison import tell
from inspector.verify.vitals import Reporter

if TYPE_CHECKING:
    from inspector.verify.targets import Targets

__all__ = ["check_saved"]


def check_saved(
    reporter: Reporter, folder: Path, names: set[str], targets: Targets, hop: int
) -> None:
    """Judge the folder; each error becomes a `tensor` or `failed` event of phase `save`."""
    try:
        checkpoint = open_checkpoint(str(folder))
        report = judge(checkpoint, open_storage(str(folder)))
    except InspectError as error:
        what = f"the saved folder cannot be read: {error.message}"
        reporter.send("failed", kind="exception", message=what, stack="", phase="save")
        return
    errors = [f for f in report.findings if f.severity == "error"]
    for finding in errors:
        if finding.fqn is None:
            what = f"the saved folder fails the check: {finding.message}"
            reporter.send("failed", kind="exception", message=what, stack="", phase="save")
            continue
        tally = Tally(finding.fqn, finding.num_elements or 0)
        verdict = "MISSING" if finding.code in ("chunk-gap", "chunk-unstored") else "FAILED"
        tally.problem(verdict, f"in the saved folder: {finding.message}", finding.file)
        tally.first_index = finding.offsets
        tell(reporter, "save", targets, tally, targets.via.get(finding.fqn, ""), hop=hop)
    saved = {*checkpoint.columns.fqns, *(e.fqn for e in checkpoint.bytes_entries)}
    for fqn in sorted(names - saved):
        tally = Tally(fqn, 0)
        tally.problem("MISSING", "the saved folder does not have it")
        tell(reporter, "save", targets, tally, targets.via.get(fqn, ""), hop=hop)
    reporter.send(
        "phase",
        phase="save",
        hop=hop,
        checked=report.verdict,
        num_findings=len(errors),
        num_bytes=checkpoint.stored_bytes,
        num_files=len(checkpoint.files),
    )
