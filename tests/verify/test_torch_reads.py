"""torch's own reading of the metadata beside ours, and the plain one beside both."""

from __future__ import annotations

import dataclasses
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.distributed.checkpoint import filesystem

from inspector.checkpoint import open_checkpoint
from inspector.checkpoint.find.locate import folder_of
from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.pickle.gate import may_import
from inspector.layout.mesh import Mesh
from inspector.verify.ranks.witness.plain import read_plainly
from inspector.verify.ranks.witness.reading import Reading, torch_reads
from tests.checkpoint.hostile import MakesFolder
from tests.conftest import GOLDEN, SAMPLES, run_python

SAMPLE = SAMPLES / "fsdp2_adamw_4"
ONE = Mesh.parse("fsdp:1")


@pytest.fixture(autouse=True)
def _stock_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    # `torch_reads` sets it for its process; here it is put back.
    monkeypatch.setattr(filesystem, "pickle", pickle)


@pytest.mark.slow
def test_it_says_of_every_sample_what_plain_dcp_load_does() -> None:
    folders = [*sorted(GOLDEN.glob("*/*"))]
    folders += sorted(p.parent for p in SAMPLES.rglob(".metadata") if "broken" not in p.parts)
    done = run_python(
        "-m",
        "tests.verify.reads_table",
        *map(str, folders),
        env={"OMP_NUM_THREADS": "1"},
        check=True,
    )
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert len(rows) == len(folders) > 50
    for row in rows:
        assert row["ok"] == (not row["raised"]), row
        assert row["tried"], row
    assert {Path(r["folder"]).parent.name for r in rows if not r["ok"]} >= {"1.13.1"}


@pytest.mark.parametrize(
    "name",
    [
        "torch.distributed.checkpoint.metadata.Metadata",
        "torch.distributed._shard.sharded_tensor.metadata.TensorProperties",
        "megatron.core.dist_checkpointing.mapping.MCoreMetadata",
        "torch.Size",
        "torch.bfloat16",
        "pathlib.PosixPath",
        "collections.OrderedDict",
    ],
)
def test_what_torch_is_let_import(name: str) -> None:
    module, _, word = name.rpartition(".")
    assert may_import(module, word)


@pytest.mark.parametrize(
    "name",
    [
        "os.mkdir",
        "builtins.eval",
        "builtins.getattr",
        "torch.load",
        "torch.nn.Linear",
        "torch.somewhere.Metadata",
        "torch.distributed.checkpoint._async_process_executor._AsyncCheckpointProcess",
        "somebodys_trainer.Metadata",
    ],
)
def test_what_torch_is_not_let_import(name: str) -> None:
    module, _, word = name.rpartition(".")
    assert not may_import(module, word)


def test_a_pickle_that_names_code_is_not_read_by_torch(tmp_path: Path) -> None:
    folder, marker = tmp_path / "c", tmp_path / "marker"
    shutil.copytree(SAMPLE, folder)
    sound = open_checkpoint(str(folder))
    told = torch_reads(sound, str(folder), ONE)
    assert (told["ok"], told["tried"], told["error"]) == (True, True, None)
    # The gate's word comes first ...
    unsafe = dataclasses.replace(sound, unsafe_globals=("os.mkdir",))
    told = torch_reads(unsafe, str(folder), ONE)
    assert (told["ok"], told["tried"], told["unsafe"]) == (False, False, True)
    assert "os.mkdir" in told["error"]
    # ... and a file that changed since then is not let in either.
    (folder / ".metadata").write_bytes(pickle.dumps(MakesFolder(marker)))
    told = torch_reads(sound, str(folder), ONE)
    assert (told["ok"], told["tried"]) == (False, False)
    assert "would import" in told["error"]
    assert "mkdir" in told["error"]
    assert not marker.exists()


def test_a_package_that_is_not_there_is_torchs_own_word() -> None:
    folder = str(SAMPLES / "broken" / "metadata_unknown_class")
    told = torch_reads(open_checkpoint(folder), folder, ONE)
    assert (told["ok"], told["tried"]) == (False, True)
    assert "No module named" in told["error"]


def _edited(checkpoint: Checkpoint, **columns: Any) -> Checkpoint:
    return dataclasses.replace(
        checkpoint, columns=dataclasses.replace(checkpoint.columns, **columns)
    )


def _faults(sound: Checkpoint) -> dict[str, Checkpoint]:
    columns = sound.columns
    moved, fqns = np.array(columns.byte_offset), list(columns.fqns)
    moved[3] += 1
    fqns[0], fqns[1] = fqns[1], fqns[0]
    box = np.array(columns.offsets)
    box[0] += 1
    dtypes = [("float16", *rest) for _, *rest in columns.properties]
    return {
        "place": _edited(sound, byte_offset=moved),
        "names": _edited(sound, fqns=fqns),
        "box": _edited(sound, offsets=box),
        "dtype": _edited(sound, properties=dtypes),
        "entry": dataclasses.replace(sound, bytes_entries=sound.bytes_entries[1:]),
        "more": _edited(sound, fqns=["another", *columns.fqns[1:]]),
    }


@pytest.mark.parametrize("fault", ["place", "names", "box", "dtype", "entry", "more"])
def test_a_reading_of_ours_that_is_wrong_is_seen_by_both(fault: str) -> None:
    sound = open_checkpoint(str(SAMPLE))
    wrong = _faults(sound)[fault]
    told = torch_reads(wrong, str(SAMPLE), ONE)
    assert (told["ok"], told["tried"]) == (False, True)
    assert "otherwise" in told["error"]
    assert read_plainly(wrong, folder_of(str(SAMPLE))).difference
    assert not read_plainly(sound, folder_of(str(SAMPLE))).difference


def test_metadata_of_each_rank_loads_with_the_ranks_that_wrote_it() -> None:
    folder = str(SAMPLES / "per_rank_metadata_2")
    checkpoint = open_checkpoint(folder)
    assert torch_reads(checkpoint, folder, Mesh.parse("fsdp:2"))["ok"]
    told = torch_reads(checkpoint, folder, ONE)
    assert (told["ok"], told["tried"]) == (False, True)
    assert "dcp.load would leave the rest as it was" in told["error"]
    told = torch_reads(checkpoint, folder, Mesh.parse("fsdp:4"))
    assert "__2.metadata, which is not there" in told["error"]


@pytest.mark.parametrize(
    "name",
    ["fsdp2_adamw_4", "per_rank_metadata_2", "hf_dcp_sharded_4", "safetensors_1", "zstd_2"],
)
def test_the_plain_reading_knows_every_name_and_every_payload(name: str) -> None:
    folder = str(SAMPLES / name)
    checkpoint = open_checkpoint(folder)
    read = read_plainly(checkpoint, folder_of(folder))
    names = {*checkpoint.columns.fqns, *(e.fqn for e in checkpoint.bytes_entries)}
    assert read.difference == ""
    assert read.names == names
    stored = int((checkpoint.columns.file >= 0).sum()) + len(checkpoint.bytes_entries)
    assert read.payloads_of(names) == stored
    first = checkpoint.columns.fqns[0]
    assert read.forgotten(names - {first}, set()) == [first]
    assert read.forgotten(names - {first}, {first}) == []


def test_the_process_that_reads() -> None:
    checkpoint = open_checkpoint(str(SAMPLE))
    names = {*checkpoint.columns.fqns, *(e.fqn for e in checkpoint.bytes_entries)}
    reading = Reading(str(SAMPLE), "fsdp:2", ())
    reading.begin(checkpoint, names, set())
    told = reading.result()
    assert (told["ok"], told["second_reading"], told["num_forgotten"]) == (True, "", 0)
    assert told["num_payloads"] > 0
    # One that dies says nothing, and accuses nobody.
    reading = Reading(str(SAMPLE), "fsdp:2", ())
    reading._process.kill()
    reading.begin(checkpoint, names, set())
    told = reading.result()
    assert (told["ok"], told["tried"]) == (False, False)
