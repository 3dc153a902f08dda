"""Safetensors files beside a checkpoint that are loaded in its place, or with it."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

from inspector.checkpoint.find.locate import read_checkpoint
from inspector.checkpoint.storage.local import LocalStorage
from inspector.checks.findings import Finding, Report
from inspector.checks.judge import check

Tensors = dict[str, torch.Tensor]
MODEL: Tensors = {"emb": torch.arange(8.0).reshape(4, 2), "norm": torch.ones(2)}
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def sharded(folder: Path, tensors: Tensors = MODEL) -> Path:
    """Each tensor in a file of its own, and their index."""
    folder.mkdir(exist_ok=True)
    places = {}
    for number, (fqn, tensor) in enumerate(tensors.items(), 1):
        places[fqn] = f"model-{number:05}-of-{len(tensors):05}.safetensors"
        save_file({fqn: tensor}, folder / places[fqn])
    (folder / INDEX).write_text(json.dumps({"weight_map": places}))
    return folder


def aside(report: Report) -> Finding:
    (finding,) = (f for f in report.findings if f.code != "payload-no-checksum")
    return finding


def loaded(folder: Path, tensors: Tensors) -> Tensors:
    state = {fqn: torch.full_like(tensor, -1) for fqn, tensor in tensors.items()}
    reader = HuggingFaceStorageReader(path=str(folder))
    dcp.load(state, storage_reader=reader, no_dist=True)
    return state


OTHERS: dict[str, tuple[Tensors, str]] = {
    "values": ({**MODEL, "norm": torch.zeros(2)}, r"2 tensors .* 1 of other values \(norm is"),
    "shape": ({**MODEL, "emb": torch.ones(6, 2)}, r"1 of another shape \(emb is \[6, 2\] there"),
    "dtype": ({**MODEL, "norm": torch.ones(2).half()}, r"1 of another dtype \(norm is float16"),
    "names": ({"emb": MODEL["emb"], "head": torch.ones(2)}, r"1 in it alone, 1 not in it"),
    "none": ({"other": torch.ones(2)}, r"none of its tensors"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_the_single_file_that_transformers_takes_first_is_a_warning(
    tmp_path: Path, name: str
) -> None:
    folder = sharded(tmp_path / "c")
    tensors, says = OTHERS[name]
    save_file(tensors, folder / SINGLE)
    report = check(str(folder))
    finding = aside(report)
    assert (finding.code, finding.severity, finding.file) == (
        "file-unreferenced",
        "warning",
        SINGLE,
    )
    assert re.search(says, finding.message), finding.message
    assert "from_pretrained of transformers loads this file" in finding.torch_does
    assert report.verdict == "sound"


def test_which_is_newer_is_told(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "c")
    save_file(OTHERS["values"][0], folder / SINGLE)
    os.utime(folder / SINGLE, (1e9, 1e9))
    assert "older than all that it names" in aside(check(str(folder))).message
    os.utime(folder / SINGLE, (4e9, 4e9))
    assert "newer than all that it names" in aside(check(str(folder))).message


def test_one_model_twice_is_a_note(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "c")
    save_file(MODEL, folder / SINGLE)
    finding = aside(check(str(folder)))
    assert finding.severity == "note" and "bit for bit" in finding.message
    assert all(torch.equal(t, MODEL[fqn]) for fqn, t in loaded(folder, MODEL).items())


def test_a_single_file_that_cannot_be_read_stops_every_reader(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "c")
    (folder / SINGLE).write_bytes(b"x" * 30)
    report = check(str(folder))
    assert (aside(report).code, report.verdict) == ("file-unreadable", "damaged")
    with pytest.raises(BaseException, match="header"):
        loaded(folder, MODEL)


def test_an_index_whose_files_are_gone_gives_way_to_the_single_file(tmp_path: Path) -> None:
    """As `save_pretrained` leaves it: a save into one file over a sharded one."""
    folder = sharded(tmp_path / "c")
    for path in folder.glob("model-*"):
        path.unlink()
    save_file(MODEL, folder / SINGLE)
    report = check(str(folder))
    finding = aside(report)
    assert (finding.code, finding.severity, finding.file) == ("index-mismatch", "warning", INDEX)
    assert report.verdict == "sound"
    assert read_checkpoint(LocalStorage(str(folder))).columns.fqns == ["emb", "norm"]
    assert all(torch.equal(t, MODEL[fqn]) for fqn, t in loaded(folder, MODEL).items())


def test_one_shard_that_is_gone_stays_damage(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "c")
    (folder / "model-00001-of-00002.safetensors").unlink()
    save_file(MODEL, folder / SINGLE)
    assert check(str(folder)).verdict == "damaged"


LEFT: dict[str, tuple[torch.Tensor, str]] = {
    "larger": (torch.zeros(6, 2), "Size mismatch"),
    "values": (torch.zeros(4, 2), "the disk lists last"),
}


@pytest.mark.parametrize("name", LEFT)
def test_a_shard_of_an_earlier_save_with_a_name_of_this_one(tmp_path: Path, name: str) -> None:
    folder = sharded(tmp_path / "c")
    tensor, fate = LEFT[name]
    left = "model-00001-of-00003.safetensors"
    save_file({"emb": tensor}, folder / left)
    finding = aside(check(str(folder)))
    assert (finding.severity, finding.file, finding.fqn) == ("warning", left, "emb")
    assert fate in finding.torch_does
    if name == "larger":
        with pytest.raises(BaseException, match="Size mismatch"):
            loaded(folder, MODEL)
    else:
        assert loaded(folder, MODEL)["emb"].tolist() in (tensor.tolist(), MODEL["emb"].tolist())


def test_a_left_file_of_other_names_or_of_the_same_bytes_is_a_note(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "c")
    left = folder / "model-00003-of-00003.safetensors"
    for tensors in ({"head": torch.zeros(2)}, {"norm": torch.ones(2)}):
        save_file(tensors, left)
        assert aside(check(str(folder))).severity == "note"
        assert all(torch.equal(t, MODEL[fqn]) for fqn, t in loaded(folder, MODEL).items())
