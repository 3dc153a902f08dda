"""Each structural fault, made in a real checkpoint's metadata, gives its finding and no other."""

from __future__ import annotations

import copy
import pickle
import time
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata, MetadataIndex

from inspector.checkpoint import open_checkpoint
from inspector.checkpoint.storage.opening import open_storage
from inspector.checks.judge import check, judge
from tests.checks.editing import chunk, codes, copy_of, edited, found, key, only, stored
from tests.conftest import GOLDEN, SAMPLES, folders_with_metadata, of_few_versions

W = "model.w"


@pytest.mark.parametrize(
    "folder",
    of_few_versions(
        [
            *folders_with_metadata(GOLDEN),
            *(p for p in folders_with_metadata(SAMPLES) if "hostile" not in p.name),
            SAMPLES / "per_rank_metadata_2",
        ]
    ),
    ids=lambda p: "/".join(p.parts[-2:]),
)
def test_good_checkpoints_have_no_finding_above_a_note(folder: Path) -> None:
    report = check(str(folder))
    assert report.verdict == "sound"
    assert [f for f in report.findings if f.severity != "note"] == []
    assert {f.code for f in report.findings} <= {"metadata-version"}
    assert report.checked.files
    assert any("payload" in n.what for n in report.checked.not_checked)


def remove_chunk(metadata: Metadata, fqn: str = W, number: int = 1) -> None:
    chunks = metadata.state_dict_metadata[fqn].chunks
    gone = chunks.pop(number)
    del metadata.storage_data[MetadataIndex(fqn, gone.offsets)]


def test_gap(tmp_path: Path) -> None:
    folder = edited(copy_of(tmp_path), remove_chunk)
    finding = only(folder, "chunk-gap")
    assert (finding.fqn, finding.num_elements) == (W, 256)
    assert (finding.offsets, finding.sizes) == ((16, 0), (16, 16))
    assert finding.torch_does == "loads silently, 256 elements left uninitialised"
    target = {W: torch.full((64, 16), torch.nan)}
    dcp.load({"model": {"w": target[W]}}, checkpoint_id=str(folder))
    assert int(target[W].isnan().sum()) == 256


def test_no_chunks_at_all(tmp_path: Path) -> None:
    def edit(metadata: Metadata) -> None:
        for _ in range(4):
            remove_chunk(metadata, number=0)

    assert only(edited(copy_of(tmp_path), edit), "chunk-gap").num_elements == 1024


def test_a_tensor_larger_than_its_chunks(tmp_path: Path) -> None:
    def edit(metadata: Metadata) -> None:
        metadata.state_dict_metadata[W].size = torch.Size([70, 16])

    assert only(edited(copy_of(tmp_path), edit), "chunk-gap").num_elements == 96


def test_overlap(tmp_path: Path) -> None:
    def edit(metadata: Metadata) -> None:
        info = metadata.storage_data[key(metadata, W, 0)]
        metadata.state_dict_metadata[W].chunks.append(chunk([8, 0], [4, 16]))
        extra = _StorageInfo("__0_0.distcp", 11638, info.length)
        metadata.storage_data[MetadataIndex(W, torch.Size([8, 0]), 4)] = extra

    folder = edited(copy_of(tmp_path), edit)
    data = folder / "__0_0.distcp"
    data.write_bytes(data.read_bytes() + b"x" * 2601)
    finding = found(check(str(folder)), "chunk-overlap")[0]
    assert finding.num_elements == 64
    assert (finding.offsets, finding.sizes) == ((8, 0), (4, 16))
    assert not found(check(str(folder)), "chunk-gap")


def test_overlap_and_gap_of_equal_volume(tmp_path: Path) -> None:
    def edit(metadata: Metadata) -> None:
        chunks = metadata.state_dict_metadata[W].chunks
        info = metadata.storage_data.pop(MetadataIndex(W, chunks[1].offsets))
        chunks[1] = chunk([8, 0], [16, 16])
        metadata.storage_data[MetadataIndex(W, torch.Size([8, 0]), 1)] = info

    report = check(str(edited(copy_of(tmp_path), edit)))
    assert found(report, "chunk-overlap")[0].num_elements == 128
    assert found(report, "chunk-gap")[0].num_elements == 128


def test_duplicate(tmp_path: Path) -> None:
    def edit(metadata: Metadata) -> None:
        chunks = metadata.state_dict_metadata[W].chunks
        chunks.append(copy.deepcopy(chunks[2]))

    finding = only(edited(copy_of(tmp_path), edit), "chunk-duplicate")
    assert finding.num_elements == 256
    assert finding.offsets == (32, 0)


def test_out_of_bounds(tmp_path: Path) -> None:
    def edit(metadata: Metadata) -> None:
        metadata.state_dict_metadata["model.u"].chunks[3] = chunk([9, 0], [3, 4])

    finding = only(edited(copy_of(tmp_path), edit), "chunk-out-of-bounds")
    assert (finding.fqn, finding.num_elements) == ("model.u", 8)


@pytest.mark.parametrize(("fqn", "num"), [(W, 256), ("none", None)])
def test_unstored(tmp_path: Path, fqn: str, num: int | None) -> None:
    def edit(metadata: Metadata) -> None:
        del metadata.storage_data[key(metadata, fqn)]

    finding = only(edited(copy_of(tmp_path), edit), "chunk-unstored")
    assert (finding.fqn, finding.num_elements) == (fqn, num)


def test_an_empty_chunk_that_is_stored_nowhere_is_fine(tmp_path: Path) -> None:
    def edit(metadata: Metadata) -> None:
        metadata.state_dict_metadata[W].chunks.append(chunk([64, 0], [0, 16]))

    assert "chunk-unstored" not in codes(edited(copy_of(tmp_path), edit))


def test_orphan(tmp_path: Path) -> None:
    def edit(metadata: Metadata) -> None:
        del metadata.state_dict_metadata["none"]

    assert only(edited(copy_of(tmp_path), edit), "storage-orphan", "warning").fqn == "none"


def test_byte_ranges_that_overlap(tmp_path: Path) -> None:
    folder = edited(copy_of(tmp_path), lambda m: stored(m, "model.u", 0, offset=2000))
    finding = only(folder, "byte-range-overlap")
    assert finding.file == "__0_0.distcp"
    assert finding.fqn == "model.u"
    assert "model.w" in finding.message


def test_two_entries_in_one_range(tmp_path: Path) -> None:
    def edit(metadata: Metadata) -> None:
        other = metadata.storage_data[key(metadata, "optimizer.state.w.exp_avg")]
        metadata.storage_data[key(metadata, W)] = other

    finding = only(edited(copy_of(tmp_path), edit), "byte-range-overlap")
    assert "silently" in finding.torch_does


def test_range_too_short(tmp_path: Path) -> None:
    folder = edited(copy_of(tmp_path), lambda m: stored(m, W, 2, length=1000))
    finding = only(folder, "range-too-short")
    assert (finding.fqn, finding.num_elements, finding.offsets) == (W, 256, (32, 0))


def test_a_transformed_payload_may_be_shorter(tmp_path: Path) -> None:
    def edit(metadata: Metadata) -> None:
        stored(metadata, W, 2, length=1000, transform_descriptors=["stream.zstd/1"])

    assert "range-too-short" not in codes(edited(copy_of(tmp_path), edit))


def test_a_file_that_torch_wrote_as_safetensors(tmp_path: Path) -> None:
    def edit(metadata: Metadata) -> None:
        for index, info in metadata.storage_data.items():
            entry = metadata.state_dict_metadata[index.fqn]
            if isinstance(entry, BytesStorageMetadata) or info.relative_path != "__0_0.distcp":
                continue
            sizes = next(c.sizes for c in entry.chunks if c.offsets == index.offset)
            info.offset = 0
            info.length = sizes.numel() * entry.properties.dtype.itemsize

    finding = only(edited(copy_of(tmp_path), edit), "byte-range-overlap")
    assert finding.file == "__0_0.distcp"
    assert "SAFETENSORS" in finding.message
    assert "UnpicklingError" in finding.torch_does


def test_swapped_storage_entries_are_told_by_the_replay(tmp_path: Path) -> None:
    def edit(metadata: Metadata) -> None:
        a, b = key(metadata, W, 0), key(metadata, W, 3)
        data = metadata.storage_data
        data[a], data[b] = data[b], data[a]

    report = check(str(edited(copy_of(tmp_path), edit)))
    swapped = found(report, "file-newer")
    assert {f.file for f in swapped} == {"__0_0.distcp", "__3_0.distcp"}
    assert report.verdict == "sound"


def test_all_findings_not_only_the_first(tmp_path: Path) -> None:
    def edit(metadata: Metadata) -> None:
        remove_chunk(metadata, W, 1)
        remove_chunk(metadata, "model.u", 0)
        remove_chunk(metadata, "model.h", 3)

    report = check(str(edited(copy_of(tmp_path), edit)))
    gaps = found(report, "chunk-gap")
    assert [f.fqn for f in gaps] == [W, "model.u", "model.h"]
    assert report.verdict == "damaged"


def test_per_rank_metadata_that_repeats_a_box_within_a_rank(tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "ckpt"
    shutil.copytree(SAMPLES / "per_rank_metadata_2", folder)
    path = folder / "__0.metadata"
    metadata = pickle.loads(path.read_bytes())
    fqn = next(k for k, v in metadata.state_dict_metadata.items() if hasattr(v, "chunks"))
    chunks = metadata.state_dict_metadata[fqn].chunks
    chunks.append(copy.deepcopy(chunks[0]))
    path.write_bytes(pickle.dumps(metadata))
    assert only(folder, "chunk-duplicate").fqn == fqn


@pytest.mark.slow
def test_a_broken_million_is_judged_in_seconds(tmp_path: Path) -> None:
    num, num_chunks = 50, 1024
    entries, data = {}, {}
    properties = pickle.loads((GOLDEN / "2.10.0/fsdp4/.metadata").read_bytes())
    properties = properties.state_dict_metadata[W].properties
    for i in range(num):
        boxes = [chunk([j * 2, 0], [2, 8]) for j in range(num_chunks) if j != i]
        entry = copy.copy(pickle.loads((GOLDEN / "2.10.0/fsdp4/.metadata").read_bytes())
                          .state_dict_metadata[W])  # fmt: skip
        entry.size, entry.chunks = torch.Size([2 * num_chunks, 8]), boxes
        entries[f"t{i}"] = entry
        for j, box in enumerate(boxes):
            place = _StorageInfo(f"__{j}_0.distcp", i * 1600, 1600)
            data[MetadataIndex(f"t{i}", box.offsets, j)] = place
    (tmp_path / ".metadata").write_bytes(pickle.dumps(Metadata(entries, None, data)))
    checkpoint = open_checkpoint(str(tmp_path))
    start = time.process_time()
    report = judge(checkpoint, open_storage(str(tmp_path)))
    assert time.process_time() - start < 10
    assert [f.num_elements for f in found(report, "chunk-gap")] == [16] * num
