"""What a checkpoint on S3 costs: requests and bytes as the server counts them.

What holds of every store is in test_clouds.py.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp

from inspector.checkpoint.dcp import read_dcp
from inspector.checkpoint.find.locate import folder_of
from inspector.checkpoint.model import Checkpoint, Tensor
from inspector.checkpoint.payload.array import read_box, read_chunk
from inspector.checkpoint.storage import ahead as storage_ahead
from inspector.checkpoint.storage.ahead import ReadAhead
from inspector.checkpoint.storage.opening import fetch_files, open_storage
from inspector.checkpoint.storage.remote.calls import MAX_IN_FLIGHT
from inspector.checkpoint.storage.remote.storage import RemoteStorage
from inspector.checks.payload.payloads import check_payloads
from tests.conftest import SAMPLES, run_cli, run_process
from tests.remote.s3_server import BUCKET, S3Server
from tests.remote.watched import together

SAMPLE = SAMPLES / "hsdp_2x4"
SEGMENT = storage_ahead.SEGMENT_BYTES


@pytest.fixture
def sample(s3: S3Server) -> str:
    return s3.put_folder(SAMPLE, "sample")


pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of 60 MB: a payload over many segments, some over one, many in one."""
    folder = tmp_path_factory.mktemp("large")
    generator = torch.Generator().manual_seed(0)
    state: dict[str, Any] = {"big": torch.randn(10_000_000, generator=generator)}
    state |= {f"middle.{i}": torch.randn(500_000, generator=generator) for i in range(8)}
    state |= {f"small.{i}": torch.randn(100, generator=generator) for i in range(300)}
    state["step"] = 7
    dcp.save(state, checkpoint_id=folder, no_dist=True)
    return folder


def named(checkpoint: Checkpoint, name: str) -> Tensor:
    return checkpoint.tensors[checkpoint.columns.fqns.index(name)]


def test_debug_tells_requests_and_bytes(s3: S3Server, sample: str) -> None:
    ran = run_process("show", sample, "--debug")
    assert f"2 requests, {s3.object_bytes:,} bytes fetched" in ran.err


def test_a_local_checkpoint_has_no_requests(s3: S3Server) -> None:
    assert "storage" not in run_cli("check", "--json", SAMPLE).json()["checked"]
    assert "requests" not in run_process("show", SAMPLE, "--debug").err


@pytest.mark.slow
def test_a_flipped_bit_is_found_there_too(s3: S3Server, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(SAMPLES / "hsdp_2x2", broken)
    storage = folder_of(str(broken))
    checkpoint = read_dcp(storage)
    tensor = checkpoint.tensors[0]
    path = broken / checkpoint.files[int(tensor.file[0])].path
    data = bytearray(path.read_bytes())
    data[data.index(read_chunk(checkpoint, storage, tensor, 0).tobytes())] ^= 1
    path.write_bytes(data)
    url = s3.put_folder(broken, "broken")
    remote, local = (run_cli("check", "--deep", "--json", p) for p in (url, broken))
    assert remote.code == local.code == 1
    errors = [
        [f for f in ran.json()["findings"] if f["severity"] == "error"] for ran in (remote, local)
    ]
    assert errors[0] == errors[1]
    assert [f["code"] for f in errors[0]] == ["payload-corrupt"]


# --- large files


def test_deep_fetches_large_files_in_few_requests(s3: S3Server, large: Path) -> None:
    url = s3.put_folder(large, "large")
    storage = folder_of(url)
    checkpoint = read_dcp(storage)
    s3.forget()
    s3.fault = together(s3, 2)
    report = check_payloads(checkpoint, storage)
    assert not report.findings and report.checked.payloads == 310
    num_bytes = (large / "__0_0.distcp").stat().st_size
    least = -(-num_bytes // SEGMENT)
    # A portion of a worker ends where a payload does.
    assert least <= len(s3.asked) <= least + 1, s3.asked
    assert s3.object_bytes == num_bytes
    assert 2 <= s3.most_at_once <= MAX_IN_FLIGHT


@pytest.mark.slow
def test_one_tensor_costs_its_own_payload(s3: S3Server, large: Path) -> None:
    storage = folder_of(s3.put_folder(large, "large"))
    checkpoint = read_dcp(storage)
    state = {"small.7": torch.empty(100), "middle.3": torch.empty(500_000)}
    state["big"] = torch.empty(10_000_000)
    dcp.load(state, checkpoint_id=large, no_dist=True)
    for name, most in (("small.7", 1), ("middle.3", 1), ("big", 5)):
        tensor = named(checkpoint, name)
        length = int(tensor.byte_length[0])
        s3.forget()
        found = read_chunk(checkpoint, storage, tensor, 0)
        assert np.array_equal(found, state[name].numpy())
        assert len(s3.asked) <= most, s3.asked
        assert s3.object_bytes == length


@pytest.mark.slow
def test_a_corner_of_a_large_tensor_costs_a_corner(s3: S3Server, large: Path) -> None:
    storage = folder_of(s3.put_folder(large, "large"))
    checkpoint = read_dcp(storage)
    state = {"big": torch.empty(10_000_000)}
    dcp.load(state, checkpoint_id=large, no_dist=True)
    s3.forget()
    found, filled = read_box(
        checkpoint, storage, named(checkpoint, "big"), (slice(5_000_000, 5_000_020),)
    )
    assert filled.all()
    assert np.array_equal(found, state["big"][5_000_000:5_000_020].numpy())
    assert len(s3.asked) <= 4 and s3.object_bytes < 64 << 10, s3.asked


def test_metadata_of_many_parts_comes_together(s3: S3Server) -> None:
    data = random.Random(1).randbytes(40 << 20)  # noqa: S311 - no secret
    s3.client().put_object(Bucket=BUCKET, Key="parts/.metadata", Body=data)
    storage = open_storage(f"s3://{BUCKET}/parts")
    storage.list()
    s3.forget()
    s3.fault = together(s3, 3)
    assert storage.read(".metadata") == data
    assert len(s3.asked) == 3 and s3.most_at_once == 3


def test_as_many_requests_are_at_work_as_may_be(s3: S3Server) -> None:
    """botocore's own pool has ten connections: the rest would wait for one."""
    data = random.Random(1).randbytes(MAX_IN_FLIGHT)  # noqa: S311 - no secret
    s3.client().put_object(Bucket=BUCKET, Key="pool/data", Body=data)
    storage = open_storage(f"s3://{BUCKET}/pool")
    s3.forget()
    s3.fault = together(s3, MAX_IN_FLIGHT)
    with ThreadPoolExecutor(MAX_IN_FLIGHT) as pool:
        found = pool.map(lambda at: storage.read("data", at, 1), range(MAX_IN_FLIGHT))
        assert b"".join(found) == data
    assert len(s3.asked) == s3.most_at_once == MAX_IN_FLIGHT


def test_metadata_of_many_ranks_comes_together(s3: S3Server) -> None:
    url = s3.put_folder(SAMPLES / "per_rank_metadata_2", "per-rank")
    checkpoint = read_dcp(folder_of(url))
    assert checkpoint.per_rank_metadata
    assert len(s3.asked) == 1 + 2
    client = s3.client()
    for i in range(40):
        client.put_object(Bucket=BUCKET, Key=f"ranks/__{i}.metadata", Body=bytes([i]) * 3000)
    storage = open_storage(f"s3://{BUCKET}/ranks")
    entries = storage.list()
    s3.forget()
    s3.fault = together(s3, 9)
    with tempfile.TemporaryDirectory() as folder:
        paths = [f"{folder}/{entry.name}" for entry in entries]
        fetch_files(storage, entries, paths)
        for entry, path in zip(entries, paths, strict=True):
            assert Path(path).read_bytes() == storage.read(entry.name)
    assert 9 <= s3.most_at_once <= MAX_IN_FLIGHT


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_announced_or_not_the_bytes_are_the_files(
    seed: int, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is announced and in whatever order it is read."""
    monkeypatch.setattr(storage_ahead, "SEGMENT_BYTES", 1000)
    monkeypatch.setattr(storage_ahead, "_GAP_BYTES", 50)
    monkeypatch.setattr(storage_ahead, "_SMALL_BYTES", 100)
    chance = random.Random(seed)  # noqa: S311 - no secret
    files = {name: chance.randbytes(chance.randrange(3000, 9000)) for name in "ab"}
    for name, data in files.items():
        s3.client().put_object(Bucket=BUCKET, Key=f"ahead/{name}", Body=data)
    storage = open_storage(f"s3://{BUCKET}/ahead")
    assert isinstance(storage, RemoteStorage)
    storage.list()
    ranges = []
    for name in "ab":
        at = 0
        while at < len(files[name]):
            length = chance.choice([10, 90, 700, 2500])
            ranges.append((name, at, min(length, len(files[name]) - at)))
            at += length + chance.choice([0, 0, 40, 300])
    ahead = ReadAhead(storage, ranges, num_ahead=1)
    try:
        for name, offset, length in ranges:
            # As a payload is read: its tail, its head, then on; now and then from the start.
            steps = [(max(length - 30, 0), 30), (0, 30), (0, length)]
            if chance.random() < 0.3:
                steps.append((0, min(length, 200)))
            for begin, count in steps:
                want = files[name][offset + begin : offset + begin + count]
                assert ahead.read(name, offset + begin, count) == want
        for _ in range(30):
            name, begin = chance.choice("ab"), chance.randrange(9000)
            count = chance.choice([1, 50, 400, 1500])
            assert ahead.read(name, begin, count) == files[name][begin : begin + count]
    finally:
        ahead.close()


# --- folders of checkpoints


def test_checking_a_run_folder_reads_each_metadata_once(s3: S3Server) -> None:
    url = s3.put_folder(SAMPLES / "run", "run")
    ran = run_cli("check", "--json", url)
    assert ran.code == 0
    document = ran.json()
    assert document["newest_sound"] == "step-200"
    assert len(s3.objects) == 3
    assert len(s3.listings) <= 3
    assert document["storage"]["failed"] == 0


def test_many_files_are_listed_in_pages(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "20")
    client = s3.client()
    for i in range(30):
        client.put_object(Bucket=BUCKET, Key=f"pages/f{i:04}", Body=b"")
    s3.forget()
    storage = open_storage(f"s3://{BUCKET}/pages")
    assert len(storage.list()) == 30
    assert len(s3.asked) == 2
    assert storage.used is not None and storage.used.requests == 2


@pytest.mark.slow
def test_a_storage_is_one_moment_and_opening_anew_another(s3: S3Server) -> None:
    client = s3.client()
    client.put_object(Bucket=BUCKET, Key="moment/a", Body=b"1")
    storage = open_storage(f"s3://{BUCKET}/moment")
    assert [e.name for e in storage.list()] == ["a"]
    client.put_object(Bucket=BUCKET, Key="moment/b", Body=b"1")
    s3.forget()
    assert [e.name for e in storage.list()] == ["a"]
    assert s3.asked == []
    assert [e.name for e in open_storage(f"s3://{BUCKET}/moment").list()] == ["a", "b"]


def test_markers_of_folders_are_no_files(s3: S3Server) -> None:
    client = s3.client()
    for key in ("marked/", "marked/below/", "marked/below/f"):
        client.put_object(Bucket=BUCKET, Key=key, Body=b"")
    storage = open_storage(f"s3://{BUCKET}/marked")
    assert [(e.name, e.kind) for e in storage.list()] == [("below", "folder")]
    assert [(e.name, e.kind) for e in storage.list("below")] == [("f", "file")]


# --- many folders


def test_many_folders_are_listed_together(s3: S3Server) -> None:
    """Where the whole tree may not be listed."""
    for step in range(6):
        s3.client().put_object(Bucket=BUCKET, Key=f"together/step-{step}/.metadata", Body=b"x")
    storage = open_storage(f"s3://{BUCKET}/together")
    assert isinstance(storage, RemoteStorage)
    names = [entry.name for entry in storage.list()]
    s3.forget()
    hold = together(s3, 1 + 4)
    s3.fault = lambda asked: hold(asked) if "delimiter=%2F" in asked.query else 403
    storage.list_ahead([*names, "none"])
    assert s3.most_at_once >= 4
    num_asked = len(s3.listings)
    assert [entry.name for name in names for entry in storage.list(name)] == [".metadata"] * 6
    assert storage.list("none") == []
    assert len(s3.listings) == num_asked
