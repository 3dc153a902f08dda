"""A run of many steps: each folder is listed once, and what is known of one step is no other's."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path

import pytest
from torch.distributed.checkpoint.metadata import Metadata

from inspector.checkpoint.find.locate import locate
from inspector.checkpoint.find.search import discover
from inspector.checkpoint.storage import local
from inspector.checkpoint.storage.base import Entry
from inspector.checkpoint.storage.local import KeptListings, LocalStorage
from inspector.checkpoint.storage.opening import open_storage
from inspector.checks.run import check_folder
from inspector.cli.group import run_command
from tests.checks.editing import copy_of, edited, key
from tests.conftest import SAMPLES

PARTS = ("model", "optimizer", "loader", "ema")
W = "model.w"


@pytest.fixture
def scans(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each folder was listed, by its path."""
    counts: Counter[str] = Counter()
    scan = local._scan

    def counted(path: Path) -> list[Entry]:
        counts[str(path)] += 1
        return scan(path)

    monkeypatch.setattr(local, "_scan", counted)
    return counts


def run_of(top: Path, steps: int) -> Path:
    for step in range(1, steps + 1):
        for part in PARTS:
            shutil.copytree(SAMPLES / "hsdp_2x4", top / f"step-{step}" / part)
    return top


def test_each_folder_of_a_run_is_listed_once(tmp_path: Path, scans: Counter[str]) -> None:
    top = run_of(tmp_path / "run", 3)
    found = locate(str(top))
    assert isinstance(found, list)
    judged = list(check_folder(found.storage, found=found, is_fresh=True))
    assert [item.report.verdict for item in judged] == ["sound"] * 12
    below = {path: count for path, count in scans.items() if path != str(top)}
    assert below == dict.fromkeys(
        (str(p) for p in (*top.glob("*"), *top.glob("*/*")) if p.is_dir()), 1
    )
    # What the path means, and what lies under it.
    assert scans[str(top)] <= 3


def test_the_command_lists_a_checkpoint_and_its_parent_few_times(
    tmp_path: Path, scans: Counter[str]
) -> None:
    folder = copy_of(tmp_path)
    assert run_command(["check", str(folder)]) == 0
    # What the path means; then what the checkpoint is, once for all checks.
    assert scans[str(folder)] <= 2
    assert scans[str(folder.parent)] <= 1


def test_what_was_finished_after_the_search_is_judged_as_it_is_now(tmp_path: Path) -> None:
    top = run_of(tmp_path / "run", 2)
    metadata = top / "step-2" / "model" / ".metadata"
    content = metadata.read_bytes()
    metadata.rename(metadata.with_name(".metadata.tmp"))
    found = discover(open_storage(str(top)))
    metadata.with_name(".metadata.tmp").unlink()
    metadata.write_bytes(content)
    judged = check_folder(found.storage, found=found, is_fresh=True)
    assert {item.report.verdict for item in judged} == {"sound"}


@pytest.mark.parametrize("anew", [False, True], ids=["over it", "in its place"])
def test_a_step_that_was_saved_over_after_the_search_is_judged_as_it_is_now(
    tmp_path: Path, anew: bool
) -> None:
    top = tmp_path / "run"
    for step in (1, 2, 3):
        shutil.copytree(SAMPLES / "hsdp_2x4", top / f"step-{step}")
    found = discover(open_storage(str(top)))
    if anew:
        shutil.rmtree(top / "step-2")
    shutil.copytree(SAMPLES / "fsdp2_adamw_4", top / "step-2", dirs_exist_ok=True)
    before = os.stat(top / "step-1").st_mtime
    # A copy takes over the times of the folder it is made of; a save does not.
    os.utime(top / "step-2", (before + 1, before + 1))
    judged = list(check_folder(found.storage, found=found, is_fresh=True))
    assert [item.report.verdict for item in judged] == ["sound"] * 3
    assert not any(
        finding.severity == "error" for item in judged for finding in item.report.findings
    )


def test_a_file_that_was_deleted_after_the_search_is_missing(tmp_path: Path) -> None:
    top = run_of(tmp_path / "run", 1)
    found = discover(open_storage(str(top)))
    (top / "step-1" / "ema" / "__0_0.distcp").unlink()
    judged = check_folder(found.storage, found=found, is_fresh=True)
    codes = {i.found.path: [f.code for f in i.report.findings] for i in judged}
    assert codes.pop("step-1/ema") == ["file-missing"]
    assert not any(codes.values())


def test_without_word_that_it_is_fresh_the_folder_is_looked_at_anew(tmp_path: Path) -> None:
    top = run_of(tmp_path / "run", 1)
    found = discover(open_storage(str(top)))
    (top / "step-1" / "ema" / "__0_0.distcp").unlink()
    verdicts = {i.found.path: i.report.verdict for i in check_folder(found.storage, found=found)}
    assert verdicts.pop("step-1/ema") == "damaged"
    assert set(verdicts.values()) == {"sound"}


@pytest.mark.parametrize("swapped", [1, 2, 3])
def test_one_step_of_another_layout_among_equal_ones(tmp_path: Path, swapped: int) -> None:
    def edit(metadata: Metadata) -> None:
        a, b = key(metadata, W, 0), key(metadata, W, 3)
        data = metadata.storage_data
        data[a], data[b] = data[b], data[a]

    whole = copy_of(tmp_path)
    top = tmp_path / "run"
    for step in (1, 2, 3):
        shutil.copytree(whole, top / f"step-{step}")
    edited(top / f"step-{swapped}", edit)
    storage = open_storage(str(top))
    told = {
        item.found.step: {f.file for f in item.report.findings if f.code == "file-newer"}
        for item in check_folder(storage)
    }
    files = {"__0_0.distcp", "__3_0.distcp"}
    assert told == {step: files if step == swapped else set() for step in (1, 2, 3)}


def test_listings_are_kept_within_their_scope_alone(tmp_path: Path) -> None:
    storage = LocalStorage(str(tmp_path))
    with KeptListings():
        assert storage.list() == []
        (tmp_path / "a").touch()
        assert storage.list() == []
        with KeptListings():
            assert [entry.name for entry in storage.list()] == ["a"]
        assert storage.list() == []
    assert [entry.name for entry in storage.list()] == ["a"]
