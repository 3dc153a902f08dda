"""`diff --values` on S3: few requests, no byte twice, the same answer as of local copies."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from inspector.checkpoint.find.locate import folder_of, read_checkpoint
from inspector.checkpoint.storage import ahead as storage_ahead
from inspector.diff import ahead, values
from inspector.diff.model import Diff, Side
from inspector.diff.structure import Structure, compare_structure
from inspector.diff.values import compare_values
from sample_ckpts.maker import editing as ed
from tests.conftest import SAMPLES, run_cli, some_fast
from tests.diff.making import shards, tiling, write
from tests.remote.s3_server import S3Server
from tests.remote.watched import times

SAMPLE = SAMPLES / "hsdp_2x4"


def structure_of(a: str | Path, b: str | Path, words: str = "") -> Structure:
    sides = []
    for place in (a, b):
        storage = folder_of(str(place))
        sides.append(Side(read_checkpoint(storage), storage))
    return compare_structure(*sides, words)


def needed_bytes(structure: Structure) -> int:
    """Of all payloads of both sides."""
    found = 0
    for side in (structure.a, structure.b):
        found += int(side.checkpoint.columns.byte_length.sum())
        found += sum(entry.byte_length for entry in side.checkpoint.bytes_entries)
    return found


def verdicts(diff: Diff) -> list[tuple[Any, ...]]:
    of_tensors = [(d.fqn, d.verdict, d.num_different, d.first_index) for d in diff.tensors]
    return [diff.verdict, *of_tensors, *((e.fqn, e.verdict) for e in diff.entries)]


@pytest.fixture
def layers(tmp_path: Path) -> tuple[Path, Path]:
    """The same 60 tensors, saved by 4 ranks and by 8; one element differs."""
    torch.manual_seed(0)
    a = {f"layers.{i}.w": torch.randn(32, 48) for i in range(60)}
    b = {name: tensor.clone() for name, tensor in a.items()}
    b["layers.31.w"][17, 5] += 1
    return tuple(  # type: ignore[return-value]
        write(
            tmp_path / name,
            state,
            {n: shards(t.shape, 0, num) for n, t in state.items()},
            {"lr": 1e-3},
        )
        for name, state, num in (("a", a, 4), ("b", b, 8))
    )


@pytest.mark.slow
def test_payloads_side_by_side_come_together(s3: S3Server, layers: tuple[Path, Path]) -> None:
    structure = structure_of(s3.put_folder(layers[0], "a"), s3.put_folder(layers[1], "b"))
    s3.forget()
    found = compare_values(structure)
    assert verdicts(found) == verdicts(compare_values(structure_of(*layers)))
    differs = [d for d in found.tensors if d.verdict != "EXACT"]
    assert [(d.fqn, d.num_different, d.first_index) for d in differs] == [
        ("layers.31.w", 1, (17, 5))
    ]
    num_payloads = structure.a.checkpoint.num_chunks + structure.b.checkpoint.num_chunks + 2
    assert num_payloads == 60 * 12 + 2
    num_files = len(structure.a.checkpoint.files) + len(structure.b.checkpoint.files)
    # All of it is one batch, and every file less than a segment.
    assert len(s3.objects) == len(s3.asked) <= num_files
    assert s3.object_bytes == needed_bytes(structure)


def test_what_lies_far_apart_is_not_fetched_with_what_is_between(
    s3: S3Server, tmp_path: Path
) -> None:
    state = {f"layers.{i}.{w}": torch.randn(200_000) for i in range(4) for w in ("down", "up")}
    folders = [write(tmp_path / name, state) for name in ("a", "b")]
    urls = [s3.put_folder(folder, folder.name) for folder in folders]
    structure = structure_of(*urls, "down")
    s3.forget()
    assert compare_values(structure).verdict == "same"
    lengths = [
        int(side.checkpoint.columns.tensor(getattr(pair, f"index_{name}")).byte_length.sum())
        for pair in structure.pairs
        for name, side in (("a", structure.a), ("b", structure.b))
    ]
    assert s3.object_bytes == sum(lengths)
    assert len(s3.objects) == len(lengths) == 8


CUTS: dict[str, Callable[[torch.Size], Any]] = {
    "rows": lambda shape: shards(shape, 0, 3),
    "columns": lambda shape: shards(shape, len(shape) - 1, 4),
    "anyhow": lambda shape: tiling(shape, 3),
    "whole": lambda shape: [((0,) * len(shape), tuple(shape))],
}


@pytest.mark.slow
@pytest.mark.parametrize("cut_b", some_fast(CUTS, ["rows"]))
@pytest.mark.parametrize("cut_a", some_fast(["rows", "columns"], ["rows"]))
def test_portions_of_a_large_tensor_are_fetched_by_themselves(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut_a: str, cut_b: str
) -> None:
    """Blocks, portions and batches made small, so that one tensor has many of each."""
    monkeypatch.setattr(values, "BLOCK_BYTES", 64 << 10)
    monkeypatch.setattr(values, "_TASK_BLOCKS", 4)
    monkeypatch.setattr(ahead, "_BATCH_BYTES", 1 << 20)
    monkeypatch.setattr(storage_ahead, "_GAP_BYTES", 8 << 10)
    held = watch_memory(monkeypatch)
    torch.manual_seed(1)
    a = {"wide": torch.randn(1000, 1200), "cube": torch.randn(80, 90, 120), "line": torch.randn(7)}
    b = {name: tensor.clone() for name, tensor in a.items()}
    b["wide"][999, 1199] += 1
    b["cube"][7, 3, 88] = float("nan")
    folders = []
    for name, state, cut in (("a", a, cut_a), ("b", b, cut_b)):
        cuts = {n: CUTS[cut](t.shape) for n, t in state.items() if t.dim() > 1}
        folders.append(write(tmp_path / name, state, cuts))
    structure = structure_of(*(s3.put_folder(folder, folder.name) for folder in folders))
    s3.forget()
    assert verdicts(compare_values(structure)) == verdicts(compare_values(structure_of(*folders)))
    # The heads are read for each portion, and nothing else twice.
    assert s3.object_bytes < 1.5 * needed_bytes(structure)
    assert 0 < max(held) <= 2 * 2 * (1 << 20)


def watch_memory(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of the segments that are held, after each change."""
    held: list[int] = []
    fetch = ahead.Ahead._fetch

    def watched(self: ahead.Ahead, batch: int) -> None:
        fetch(self, batch)
        segments = (
            segment
            for side in self._sides
            for files in side.held.values()
            for listed in files.values()
            for segment in listed
        )
        held.append(sum(segment.end - segment.start for segment in segments))

    monkeypatch.setattr(ahead.Ahead, "_fetch", watched)
    return held


@pytest.mark.slow
@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("hsdp_2x4", "hsdp_2x2"),
        ("hsdp_2x2", "broken/bit_flip"),
        ("hsdp_2x2", "broken/file_missing"),
        ("hsdp_2x2", "broken/file_cut"),
        ("hsdp_2x2", "broken/path_parent"),
        ("hsdp_2x2", "broken/payload_zeroed"),
        ("zstd_2", "zstd_2"),
        ("dtypes_4", "dtypes_4"),
        ("fsdp2_hsdp_2x4_adamw", "fsdp2_adamw_4"),
        ("safetensors_1", "safetensors_1"),
        ("hf_dcp_sharded_4", "hf_dcp_sharded_4"),
    ],
)
def test_it_says_what_it_says_of_the_local_copies(s3: S3Server, a: str, b: str) -> None:
    top = f"checks/{a}-{b}"
    urls = [s3.put_folder(SAMPLES / name, f"{top}/{n}") for n, name in enumerate((a, b))]
    s3.forget()
    there = run_cli("diff", *urls, "--values", "--json")
    here = run_cli("diff", SAMPLES / a, SAMPLES / b, "--values", "--json")
    assert there.code == here.code
    for key in ("verdict", "only_in_a", "only_in_b", "renamed"):
        assert there.json()[key] == here.json()[key]
    for mine, its in zip(there.json()["tensors"], here.json()["tensors"], strict=True):
        for key in ("fqn", "verdict", "num_different", "first_index"):
            assert mine[key] == its[key], (mine, its)
    # Nothing outside of the two folders is asked for, whatever the metadata name.
    assert all("/checks/" in asked.path and ".." not in asked.path for asked in s3.objects)


def test_one_side_may_be_local(s3: S3Server, layers: tuple[Path, Path]) -> None:
    url = s3.put_folder(layers[1], "b")
    for sides in ((layers[0], url), (url, layers[0])):
        structure = structure_of(*sides)
        s3.forget()
        found = compare_values(structure)
        assert [d.fqn for d in found.tensors if d.verdict == "DIFFER"] == ["layers.31.w"]
        assert len(s3.objects) <= 8 + 1


@pytest.mark.slow
def test_a_file_that_does_not_answer_is_told_and_the_rest_compared(s3: S3Server) -> None:
    urls = [s3.put_folder(SAMPLE, name) for name in ("a", "b")]
    s3.fault = times(1000, 503, lambda asked: "/b/__3_0" in asked.path)
    ran = run_cli("diff", *urls, "--values", "--json")
    assert ran.code == 2
    found = {t["fqn"]: t for t in ran.json()["tensors"]}
    bad = [t for t in found.values() if t["verdict"] == "NOT_COMPARED"]
    assert bad and len(bad) < len(found)
    assert all("in B: " in t["detail"] and "answers 503" in t["detail"] for t in bad)
    # It was one request, tried five times, not one for each of its payloads.
    assert sum("/b/__3_0" in asked.path for asked in s3.asked) == 5


@pytest.mark.slow
def test_it_is_cancelled_while_the_server_is_silent(s3: S3Server) -> None:
    structure = structure_of(s3.put_folder(SAMPLE, "a"), s3.put_folder(SAMPLE, "b"))
    answer = threading.Event()
    s3.fault = lambda _: answer
    try:
        found = compare_values(structure, progress=lambda _: bool(s3.asked))
        assert found.is_cancelled
        assert all(d.verdict == "NOT_COMPARED" for d in found.tensors)
    finally:
        answer.set()


def test_a_payload_that_claims_to_be_endless_costs_nothing(s3: S3Server, tmp_path: Path) -> None:
    folder = write(tmp_path / "a", {"w": torch.randn(64, 64), "v": torch.randn(9)})
    ed.set_stored(folder, "w", length=1 << 60)
    url = s3.put_folder(folder, "a")
    s3.forget()
    found = json.loads(run_cli("diff", url, url, "--values", "--json").out)
    assert {t["fqn"]: t["verdict"] for t in found["tensors"]}["v"] == "EXACT"
    assert s3.object_bytes < 10 * sum(path.stat().st_size for path in folder.iterdir())
