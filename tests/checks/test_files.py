"""Each fault of the files, made in a copy of a real checkpoint."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp

from inspector.checkpoint import open_checkpoint
from inspector.checks.folder import files as files_module
from inspector.checks.judge import check
from tests.checks.editing import codes, copy_of, edited, found, key, only, stored
from tests.conftest import SAMPLES

T = 1_700_000_000


def test_missing(tmp_path: Path) -> None:
    folder = copy_of(tmp_path)
    (folder / "__2_0.distcp").unlink()
    finding = only(folder, "file-missing")
    assert finding.file == "__2_0.distcp"
    assert finding.num_elements == 256 + 12 + 48 + 256 + 12 + 48 + 1
    assert "FileNotFoundError" in finding.torch_does


def test_a_dangling_link_is_missing(tmp_path: Path) -> None:
    folder = copy_of(tmp_path)
    (folder / "__2_0.distcp").unlink()
    (folder / "__2_0.distcp").symlink_to("gone")
    assert "gone" in only(folder, "file-missing").message


@pytest.mark.parametrize(("keep", "num"), [(-1, 48), (12519, 49), (0, 633)])
def test_truncated(tmp_path: Path, keep: int, num: int) -> None:
    folder = copy_of(tmp_path)
    path = folder / "__2_0.distcp"
    path.write_bytes(path.read_bytes()[:keep])
    os.utime(path, (T, T))
    finding = only(folder, "file-truncated")
    assert finding.file == "__2_0.distcp"
    assert finding.num_elements == num
    kinds = set()
    for tensor in open_checkpoint(str(folder)).tensors:
        target = {tensor.fqn: torch.zeros(tensor.shape, dtype=getattr(torch, tensor.dtype))}
        try:
            dcp.load(target, checkpoint_id=folder, no_dist=True)
        except dcp.api.CheckpointException as error:
            kinds.add(type(error.failures[0][0]).__name__)
    assert kinds == {"EOFError", "RuntimeError"} & set(re.findall(r"\w+", finding.torch_does))


_ZSTD = b"\x28\xb5\x2f\xfd"
_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 25038\n"


@pytest.mark.parametrize(
    ("what", "put", "do"),
    [
        ("gzip data", gzip.compress, "unpack it"),
        ("zstandard data", lambda data: _ZSTD + data[:999], "unpack it"),
        ("xz data", lzma.compress, "unpack it"),
        ("bzip2 data", bz2.compress, "unpack it"),
        ("a Git LFS pointer", lambda _: _POINTER, "git lfs pull"),
        ("an HTML or XML page", lambda _: b"<?xml version='1.0'?><Error/>", "fetch the file again"),
    ],
)
def test_what_stands_in_a_data_files_place_is_told(
    tmp_path: Path, what: str, put: Callable[[bytes], bytes], do: str
) -> None:
    folder = copy_of(tmp_path)
    path = folder / "__2_0.distcp"
    path.write_bytes(put(path.read_bytes()))
    os.utime(path, (T, T))
    finding = only(folder, "file-truncated")
    assert f"bytes of {what}, but the metadata needs" in finding.message
    assert do in finding.hint
    checkpoint = open_checkpoint(str(folder))
    for tensor in checkpoint.tensors:
        if not any(checkpoint.files[int(file)].path == finding.file for file in tensor.file):
            continue
        target = {tensor.fqn: torch.zeros(tensor.shape, dtype=getattr(torch, tensor.dtype))}
        with pytest.raises(dcp.api.CheckpointException) as raised:
            dcp.load(target, checkpoint_id=folder, no_dist=True)
        said = str(raised.value.failures[0][0])
        assert "__2_0" not in said and tensor.fqn not in said


def test_a_compressed_copy_in_the_place_of_a_file_is_told(tmp_path: Path) -> None:
    folder = copy_of(tmp_path)
    (folder / "__2_0.distcp").rename(folder / "__2_0.distcp.gz")
    assert "__2_0.distcp.gz is there: unpack it" in only(folder, "file-missing").hint
    (folder / ".metadata").rename(folder / ".metadata.zst")
    missing = only(folder, "metadata-missing")
    assert ".metadata.zst" in missing.message and "unpack it" in missing.hint


def test_a_file_of_compressed_payloads_that_is_cut_short_is_not_taken_for_another(
    tmp_path: Path,
) -> None:
    pytest.importorskip("zstandard")
    from torch.distributed.checkpoint._extension import ZStandard

    writer = dcp.FileSystemWriter(tmp_path, _extensions=[ZStandard()])
    dcp.save({"a": torch.arange(4000.0)}, storage_writer=writer, no_dist=True)
    path = tmp_path / "__0_0.distcp"
    data = path.read_bytes()
    assert data.startswith(_ZSTD)
    path.write_bytes(data[:-9])
    finding = only(tmp_path, "file-truncated")
    assert "zstandard" not in finding.message and "cut short" in finding.hint


@pytest.mark.parametrize("keep", [None, 10, -1])
def test_a_file_of_empty_chunks_is_never_read(tmp_path: Path, keep: int | None) -> None:
    """Damage all the same, but not what torch would stumble over: it is run beside."""
    state = {"a": torch.arange(6.0), "e": torch.zeros(0, 3)}
    writer = dcp.FileSystemWriter(tmp_path, single_file_per_rank=False)
    dcp.save(state, storage_writer=writer, no_dist=True)
    checkpoint = open_checkpoint(str(tmp_path))
    (empty,) = [t for t in checkpoint.tensors if t.fqn == "e"]
    path = tmp_path / checkpoint.files[int(empty.file[0])].path
    data = path.read_bytes()
    path.unlink() if keep is None else path.write_bytes(data[:keep])
    finding = only(tmp_path, "file-missing" if keep is None else "file-truncated")
    assert finding.torch_does == "never reads them: the chunks hold no element"
    target = {"a": torch.zeros(6), "e": torch.zeros(0, 3)}
    dcp.load(target, checkpoint_id=tmp_path, no_dist=True)
    assert torch.equal(target["a"], state["a"])


def test_not_a_regular_file(tmp_path: Path) -> None:
    for i, make in enumerate((os.mkdir, os.mkfifo, lambda p: os.symlink(p, p))):
        folder = copy_of(tmp_path / str(i))
        path = folder / "__2_0.distcp"
        path.unlink()
        make(path)
        assert only(folder, "file-unreadable").file == "__2_0.distcp"


def test_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copy_of(tmp_path)
    (folder / "__2_0.distcp").chmod(0)
    if os.geteuid() == 0:  # root may read everything
        monkeypatch.setattr(files_module.os, "access", lambda p, _: "__2_" not in str(p))
    finding = only(folder, "file-unreadable")
    assert "permission" in finding.message


@pytest.mark.parametrize("path", ["/etc/passwd", "../other/__2_0.distcp", "C:\\x", "a\0b"])
def test_escapes(tmp_path: Path, path: str) -> None:
    folder = edited(copy_of(tmp_path), lambda m: stored(m, "none", relative_path=path))
    report = check(str(folder))
    assert [f.file for f in found(report, "path-escapes")] == [path]
    assert report.verdict == "suspicious"
    assert not found(report, "file-missing")


def test_a_link_that_leads_outside(tmp_path: Path) -> None:
    folder = copy_of(tmp_path)
    shutil.move(folder / "__2_0.distcp", tmp_path / "elsewhere")
    (folder / "__2_0.distcp").symlink_to(tmp_path / "elsewhere")
    assert only(folder, "path-escapes", "warning").file == "__2_0.distcp"
    assert check(str(folder)).verdict == "sound"


def test_a_link_within_the_folder_is_fine(tmp_path: Path) -> None:
    folder = copy_of(tmp_path)
    (folder / "data").mkdir()
    shutil.move(folder / "__2_0.distcp", folder / "data" / "two")
    (folder / "__2_0.distcp").symlink_to("data/two")
    assert not codes(folder)


def test_links_of_a_hugging_face_cache_are_fine(tmp_path: Path) -> None:
    original = copy_of(tmp_path)
    repo = tmp_path / "models--x--y"
    snapshot, blobs = repo / "snapshots" / "abc" / "ckpt", repo / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for i, path in enumerate(sorted(original.iterdir())):
        shutil.move(path, blobs / f"hash{i}")
        (snapshot / path.name).symlink_to(f"../../../blobs/hash{i}")
    assert not codes(snapshot)


def test_data_files_in_a_folder_below(tmp_path: Path) -> None:
    def edit(metadata: object) -> None:
        for info in metadata.storage_data.values():  # type: ignore[attr-defined]
            info.relative_path = f"data/{info.relative_path}"

    folder = edited(copy_of(tmp_path), edit)
    (folder / "data").mkdir()
    for path in folder.glob("*.distcp"):
        shutil.move(path, folder / "data" / path.name)
    assert not codes(folder)
    (folder / "data" / "__1_0.distcp").unlink()
    assert only(folder, "file-missing").file == "data/__1_0.distcp"


def test_an_empty_file_of_a_rank_is_normal(tmp_path: Path) -> None:
    folder = copy_of(tmp_path)
    (folder / "__4_0.distcp").touch()
    os.utime(folder / "__4_0.distcp", (T, T))
    assert not codes(folder)


@pytest.mark.parametrize(
    "name",
    [
        ".metadata.tmp",
        "x.tmp",
        "__1_0.distcp.part",
        ".nfs00000abcde",
        ".__1_0.distcp.aB3dE9",
        "._.metadata",
        ".___1_0.distcp",
    ],
)
def test_leftover(tmp_path: Path, name: str) -> None:
    folder = copy_of(tmp_path)
    (folder / name).write_bytes(b"x")
    report = check(str(folder))
    assert [(f.code, f.file) for f in report.findings] == [("file-leftover", name)]


def test_attributes_of_macos_without_their_file_are_a_file_that_nothing_names(
    tmp_path: Path,
) -> None:
    folder = copy_of(tmp_path)
    (folder / ".___9_0.distcp").write_bytes(b"x")
    assert codes(folder) == {"file-unreferenced": "warning"}


@pytest.mark.parametrize("name", ["train.json", "meta.pt", "README.md", ".metadata.bck"])
def test_other_files_are_no_leftover(tmp_path: Path, name: str) -> None:
    folder = copy_of(tmp_path)
    (folder / name).write_bytes(b"x")
    assert not codes(folder)


def test_a_copy_without_times(tmp_path: Path) -> None:
    folder = copy_of(tmp_path)
    copied = tmp_path / "copied"
    copied.mkdir()
    for path in sorted(folder.iterdir()):
        shutil.copyfile(path, copied / path.name)
    assert not codes(copied)


def test_a_rank_without_a_file(tmp_path: Path) -> None:
    def edit(metadata: object) -> None:
        for info in metadata.storage_data.values():  # type: ignore[attr-defined]
            info.relative_path = info.relative_path.replace("__1_", "__7_")

    folder = edited(copy_of(tmp_path), edit)
    shutil.move(folder / "__1_0.distcp", folder / "__7_0.distcp")
    found_ = found(check(str(folder)), "rank-missing")
    assert [f.severity for f in found_] == ["warning"]
    assert "1, 4, 5, 6" in found_[0].message


def test_per_rank_metadata_of_a_rank_is_missing(tmp_path: Path) -> None:
    folder = tmp_path / "ckpt"
    shutil.copytree(SAMPLES / "per_rank_metadata_2", folder)
    assert not codes(folder)
    (folder / "__1.metadata").unlink()
    report = check(str(folder))
    assert [(f.severity, f.file) for f in found(report, "rank-missing")] == [
        ("error", "__1.metadata")
    ]


def test_bytes_that_no_entry_owns(tmp_path: Path) -> None:
    folder = copy_of(tmp_path)
    path = folder / "__2_0.distcp"
    path.write_bytes(path.read_bytes() + b"garbage")
    os.utime(path, (T, T))
    report = check(str(folder))
    assert [(f.code, f.severity) for f in report.findings] == [("bytes-unreferenced", "note")]
    assert "7 bytes" in report.findings[0].message
    assert "at its end" in report.findings[0].message


def test_a_hole_between_payloads(tmp_path: Path) -> None:
    def edit(metadata: object) -> None:
        del metadata.state_dict_metadata["none"]  # type: ignore[attr-defined]
        del metadata.storage_data[key(metadata, "none")]  # type: ignore[attr-defined, arg-type]

    report = check(str(edited(copy_of(tmp_path), edit)))
    assert ["between payloads" in f.message for f in found(report, "bytes-unreferenced")] == [True]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("__1_0.DISTCP", "differs in its case alone"),
        ("__1_0 (1).distcp", "as a second download is named"),
        (".__1_0.distcp.Xy12Zz", "as rsync names what it has not copied whole"),
        ("__9_0.distcp", "copy the file from the original"),
    ],
)
def test_a_file_that_is_there_under_another_name(tmp_path: Path, name: str, words: str) -> None:
    folder = copy_of(tmp_path)
    (folder / "__1_0.distcp").rename(folder / name)
    (finding,) = found(check(str(folder)), "file-missing")
    assert words in finding.hint


@pytest.mark.parametrize("name", ["metadata", ".METADATA", "_metadata"])
def test_metadata_under_another_name(tmp_path: Path, name: str) -> None:
    folder = copy_of(tmp_path)
    (folder / ".metadata").rename(folder / name)
    (finding,) = check(str(folder)).findings
    assert (finding.code, name in finding.hint) == ("metadata-missing", True)
    assert "4 data files" in finding.message
