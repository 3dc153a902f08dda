"""Real checkpoints, copied and broken on purpose."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, Metadata, MetadataIndex

from inspector.checks.findings import Finding, Report
from inspector.checks.judge import check
from inspector.checks.payload.payloads import check_payloads
from tests.conftest import GOLDEN

Edit = Callable[[Metadata], object]


def copy_of(tmp_path: Path, case: str = "2.10.0/fsdp4_opt") -> Path:
    """A copy of a golden checkpoint whose files are all of one time."""
    folder = tmp_path / "ckpt"
    shutil.copytree(GOLDEN / case, folder)
    for path in folder.iterdir():
        os.utime(path, (1_700_000_000, 1_700_000_000))
    return folder


def edited(folder: Path, edit: Edit) -> Path:
    """The checkpoint with its metadata changed by `edit`."""
    path = folder / ".metadata"
    before = path.stat()
    metadata = pickle.loads(path.read_bytes())
    edit(metadata)
    path.write_bytes(pickle.dumps(metadata))
    os.utime(path, (before.st_atime, before.st_mtime))
    return folder


def chunk(offsets: list[int], sizes: list[int]) -> ChunkStorageMetadata:
    return ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes))


def key(metadata: Metadata, fqn: str, number: int = 0) -> MetadataIndex:
    return [index for index in metadata.storage_data if index.fqn == fqn][number]


def stored(metadata: Metadata, fqn: str, number: int = 0, **changes: Any) -> None:
    """Change fields of a storage entry."""
    index = key(metadata, fqn, number)
    info = metadata.storage_data[index]
    for name, value in changes.items():
        setattr(info, name, value)


def found(report: Report, code: str) -> list[Finding]:
    return [finding for finding in report.findings if finding.code == code]


def only(folder: Path | str, code: str, severity: str = "error") -> Finding:
    """The one finding that a checkpoint has above a note, which is of that code."""
    report = check(str(folder))
    serious = [f for f in report.findings if f.severity != "note" or f.code == code]
    assert [(f.code, f.severity) for f in serious] == [(code, severity)], serious
    assert serious[0].torch_does
    assert serious[0].hint
    return serious[0]


def codes(folder: Path | str) -> dict[str, str]:
    return {f.code: f.severity for f in check(str(folder)).findings}


def judged(folder: Path, *, deep: bool = True) -> Report:
    return check(str(folder), deep=check_payloads if deep else None)
