"""What is damaged is named and not written; what is written is whole, or is not there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from inspector.checkpoint.find.locate import folder_of, read_checkpoint
from inspector.checkpoint.payload.crc import combine, crc32, crc32_combine
from inspector.checkpoint.workers import BytesProgress
from inspector.cli.group import run_command
from inspector.errors import Cancelled, InspectError, StorageError, UsageError
from inspector.export.copying import Buffers, TensorCopy
from inspector.export.formats.files import PlannedFile
from inspector.export.pieces import PieceReader
from inspector.export.target import OpenTarget
from sample_ckpts.maker.editing import edit
from tests.conftest import ROOT, SAMPLES, run_cli, run_python, some_fast
from tests.diff.making import place_of, raw_bits, sample, shards, side, tiling, whole, write
from tests.export.helping import bits, exported

BROKEN = SAMPLES / "broken"

# What of each is named, by code; without an entry all of it can be written.
DAMAGED: dict[str, tuple[str, str]] = {
    "bit_flip": ("model.net1.weight", "payload-corrupt"),
    "byte_ranges_overlap": ("model.net2.bias", "byte-range-overlap"),
    "chunk_gap": ("model.net1.weight", "chunk-gap"),
    "chunk_none": ("model.net3.bias", "chunk-gap"),
    "chunk_out_of_bounds": ("model.net1.weight", "chunk-gap"),
    "chunk_unstored": ("model.net1.weight", "chunk-unstored"),
    "entry_negative": ("model.net1.weight", "entry-malformed"),
    "file_cut": ("model.net3.weight", "file-truncated"),
    "file_missing": ("model.net1.weight", "file-missing"),
    "payload_dtype": ("model.net1.weight", "payload-mismatch"),
    "payload_zeroed": ("model.net1.weight", "payload-unreadable"),
    "range_short": ("model.net1.weight", "range-too-short"),
    "rank_metadata_missing": ("model.net1.weight", "chunk-gap"),
    "st_cut": ("net4.weight", "file-truncated"),
    "st_file_missing": ("model-00002-of-00002.safetensors", "file-missing"),
    "st_index_stale": ("model.extra.weight", "index-mismatch"),
    "st_overlap": ("net4.bias", "byte-range-overlap"),
    "st_shard_missing": ("net1.weight", "chunk-gap"),
    "tensor_larger": ("model.net1.weight", "chunk-gap"),
}
WHOLE = (
    "bit_flip_in_bytes", "bytes_trailing", "chunk_duplicate", "file_leftover", "metadata_future",
    "no_checksum", "payload_legacy", "storage_orphan", "values_nan",
)  # fmt: skip


@pytest.mark.parametrize(
    "name", some_fast(DAMAGED, ["bit_flip", "chunk_gap", "file_missing", "st_file_missing"])
)
def test_what_is_damaged_is_named_and_nothing_is_written(name: str, tmp_path: Path) -> None:
    report = exported(BROKEN / name, tmp_path / "out")
    assert (report.verdict, report.exit_code, report.tensors) == ("refused", 1, ())
    found = {item.fqn: item.code for item in report.left_out if item.kind == "damaged"}
    fqn, code = DAMAGED[name]
    assert found[fqn] == code
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", some_fast(DAMAGED, ["bit_flip", "file_missing"]))
def test_it_may_be_left_out_and_is_never_filled(name: str, tmp_path: Path) -> None:
    report = exported(BROKEN / name, tmp_path / "out", allow_damaged=True)
    assert report.exit_code == 1
    bad = {item.fqn for item in report.left_out if item.kind == "damaged"}
    assert DAMAGED[name][0] in bad
    if report.verdict == "refused":
        assert list(tmp_path.iterdir()) == []
        return
    assert report.verdict == "partial"
    written = load_file(tmp_path / "out")
    assert set(written).isdisjoint(bad)
    assert set(written) == {tensor.name for tensor in report.tensors}


@pytest.mark.parametrize("name", some_fast(WHOLE, ["chunk_duplicate", "no_checksum"]))
def test_what_is_odd_but_whole_is_written(name: str, tmp_path: Path) -> None:
    report = exported(BROKEN / name, tmp_path / "out")
    assert (report.verdict, report.exit_code) == ("written", 0)
    assert (report.num_unchecked > 0) == (name in ("no_checksum", "payload_legacy"))


def test_a_damaged_plain_value_is_no_value(tmp_path: Path) -> None:
    report = exported(BROKEN / "bit_flip_in_bytes", tmp_path / "out", form="torch")
    assert report.verdict == "refused"
    assert [item.code for item in report.left_out if item.kind == "damaged"] == ["payload-corrupt"]


@pytest.mark.slow
def test_every_bit_of_a_payload_counts(tmp_path: Path) -> None:
    """A flip anywhere is told, or changes nothing of the numbers."""
    state = {"w": torch.arange(48.0).reshape(8, 6)}
    folder = write(tmp_path / "ck", state, {"w": shards((8, 6), 0, 4)}, num_files=1)
    file, offset, length = place_of(folder, "w", (4, 0))
    good = file.read_bytes()
    num_refused = 0
    for at in range(offset, offset + length, 11):
        data = bytearray(good)
        data[at] ^= 0x10
        file.write_bytes(data)
        out = tmp_path / f"out{at}"
        if exported(folder, out).verdict == "refused":
            num_refused += 1
            assert not out.exists()
        else:
            assert bits(load_file(out)["w"]) == bits(state["w"])
    assert num_refused > length // 11 // 4


def test_overlapping_chunks_have_to_agree(tmp_path: Path) -> None:
    boxes = [((0, 0), (5, 4)), ((3, 0), (5, 4))]
    state = {"w": torch.randn(8, 4), "v": torch.randn(2)}
    same = write(tmp_path / "same", state, {"w": boxes})
    assert exported(same, tmp_path / "one").verdict == "written"
    assert bits(load_file(tmp_path / "one")["w"]) == bits(state["w"])
    other = write(tmp_path / "other", {**state, "w": state["w"] + 1}, {"w": boxes})
    # The second chunk of another save, in the place of this one's.
    to, offset, length = place_of(same, "w", (3, 0))
    source, begin, count = place_of(other, "w", (3, 0))
    assert length == count
    data = bytearray(to.read_bytes())
    data[offset : offset + length] = source.read_bytes()[begin : begin + count]
    to.write_bytes(data)
    report = exported(same, tmp_path / "two")
    assert [(item.fqn, item.code) for item in report.left_out] == [("w", "chunk-overlap")]


class Memory:
    """A place for a tensor."""

    def __init__(self, num_bytes: int) -> None:
        self.data = bytearray(num_bytes)

    def write(self, offset: int, data: memoryview) -> None:
        self.data[offset : offset + len(data)] = data

    def readinto(self, offset: int, out: memoryview) -> None:
        out[:] = self.data[offset : offset + len(out)]


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    dtype=st.sampled_from([torch.bool, torch.bfloat16, torch.float32, torch.complex128]),
    shape=st.lists(st.integers(1, 7), max_size=4).map(tuple),
    seed=st.integers(0, 2**20),
    cuts=st.integers(0, 9),
    block_bytes=st.integers(1, 600),
    strided=st.booleans(),
    order=st.randoms(use_true_random=False),
)
def test_blocks_of_any_size_in_any_order(
    tmp_path_factory: pytest.TempPathFactory,
    dtype: torch.dtype,
    shape: tuple[int, ...],
    seed: int,
    cuts: int,
    block_bytes: int,
    strided: bool,
    order: Any,
) -> None:
    tensor = sample(dtype, shape, seed)
    boxes = tiling(shape, seed, cuts) if shape else whole(shape)
    folder = write(
        tmp_path_factory.mktemp("ck") / "ck", {"t": tensor}, {"t": boxes}, strided=strided
    )
    found = side(folder)
    stored = found.checkpoint.columns.tensor(0)
    copy = TensorCopy(stored, stored.dtype, block_bytes)
    memory, reader, buffers = Memory(copy.num_bytes), PieceReader(*found_of(found)), Buffers()
    numbers = list(range(copy.plan.num_blocks))
    order.shuffle(numbers)
    for number in numbers:
        copy.copy(number, reader, buffers, memory)
    assert bytes(memory.data) == raw_bits(tensor)
    assert copy.crc == crc32(memory.data)
    assert copy.num_checked == stored.num_chunks
    order.shuffle(numbers)
    assert all(copy.verify(n, buffers, memory, lambda count: None) for n in numbers)
    reader.close()


def found_of(found: Any) -> tuple[Any, Any]:
    return found.checkpoint, found.storage


def test_verifying_sees_a_changed_byte_and_a_chunk_in_the_wrong_place(tmp_path: Path) -> None:
    tensor = torch.arange(64.0).reshape(8, 8)
    folder = write(tmp_path / "ck", {"t": tensor}, {"t": shards((8, 8), 1, 4)})
    found = side(folder)
    copy = TensorCopy(found.checkpoint.columns.tensor(0), "float32", 1 << 20)
    memory, reader, buffers = Memory(256), PieceReader(*found_of(found)), Buffers()
    copy.copy(0, reader, buffers, memory)
    assert copy.verify(0, buffers, memory, lambda count: None)
    memory.data[17] ^= 1
    assert not copy.verify(0, buffers, memory, lambda count: None)
    memory.data[17] ^= 1
    # As a block put together wrongly would be: its own checksum is right.
    moved = np.frombuffer(memory.data, np.float32).reshape(8, 8).copy()
    moved[:, [0, 2]] = moved[:, [2, 0]]
    memory.data[:] = moved.tobytes()
    copy._blocks[0] = crc32(memory.data)
    assert not copy.verify(0, buffers, memory, lambda count: None)


@pytest.mark.parametrize("sizes", [(0, 0), (1, 0), (0, 5), (1000, 1), (70_000, 4096)])
def test_checksums_of_parts_add_up(sizes: tuple[int, int]) -> None:
    first, second = (os.urandom(size) for size in sizes)
    parts = crc32(first), crc32(second), len(second)
    assert combine(*parts) == crc32_combine(*parts) == crc32(first + second)


def test_safetensors_sets_and_remote_storages_are_sources(tmp_path: Path) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    source = SAMPLES / "safetensors_1"
    want = {
        k: bits(v) for p in sorted(source.glob("*.safetensors")) for k, v in load_file(p).items()
    }
    report = exported(source, tmp_path / "a")
    assert (report.verdict, report.num_checked) == ("written", 0)
    assert {k: bits(v) for k, v in load_file(tmp_path / "a").items()} == want
    remote = MemoryFileSystem()
    for path in (SAMPLES / "hsdp_2x2").iterdir():
        remote.pipe(f"/exported/ck/{path.name}", path.read_bytes())
    exported("memory://exported/ck", tmp_path / "b")
    exported(SAMPLES / "hsdp_2x2", tmp_path / "c")
    assert (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes()


def test_metadata_of_every_rank(tmp_path: Path) -> None:
    report = exported(SAMPLES / "per_rank_metadata_2", tmp_path / "out")
    assert report.verdict == "written"
    storage = folder_of(str(SAMPLES / "per_rank_metadata_2"))
    names = set(read_checkpoint(storage).columns.fqns)
    assert set(load_file(tmp_path / "out")) == names


# Where it is written.


def test_what_is_there_stays(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_bytes(b"mine")
    source = str(SAMPLES / "hsdp_2x2")
    ran = run_cli("export", source, out)
    assert (ran.code, out.read_bytes()) == (2, b"mine")
    assert "--overwrite" in ran.err
    # Even then it is replaced by what is whole alone.
    assert run_cli("export", str(BROKEN / "bit_flip"), out, "--overwrite").code == 1
    assert out.read_bytes() == b"mine"
    assert run_cli("export", source, out, "--overwrite").code == 0
    assert load_file(out)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("out")] == ["out"]


def test_a_folder_is_replaced_only_if_it_holds_shards_alone(tmp_path: Path) -> None:
    source, out = str(SAMPLES / "hsdp_2x2"), tmp_path / "out"
    command = ["export", source, out, "--max-shard-size", "200B"]
    assert run_cli(*command).code == 0
    assert run_cli(*command).code == 2
    assert run_cli(*command, "--overwrite").code == 0
    (out / "notes.txt").write_text("mine")
    ran = run_cli(*command, "--overwrite")
    assert (ran.code, (out / "notes.txt").read_text()) == (2, "mine")


@pytest.mark.parametrize("what", ["signal", "note"])
def test_an_old_folder_stays_whatever_comes_in_between(what: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "model.safetensors").write_bytes(b"mine")
    planned = PlannedFile("model.safetensors", (), 8, lambda crcs: ())
    expected: type[BaseException] = UsageError
    with pytest.MonkeyPatch.context() as patched, OpenTarget(str(out), [planned]) as target:
        if what == "note":  # Somebody puts it there while the export runs.
            (out / "notes.txt").write_text("mine, too")
        else:
            patched.setattr(os, "replace", lambda *names: signal.raise_signal(signal.SIGINT))
            expected = KeyboardInterrupt
        with pytest.raises(expected):
            target.publish(overwrite=True)
    assert os.listdir(tmp_path) == ["out"]
    assert (out / "model.safetensors").read_bytes() == b"mine"
    assert (out / "notes.txt").exists() == (what == "note")


def test_a_pipe_is_not_replaced_nor_a_file_with_a_slash(tmp_path: Path) -> None:
    source, out = str(SAMPLES / "hsdp_2x2"), tmp_path / "out"
    os.mkfifo(out)
    ran = run_cli("export", source, out, "--overwrite")
    assert (ran.code, out.is_fifo()) == (2, True)
    assert "a pipe" in ran.err
    (tmp_path / "file").write_bytes(b"mine")
    ran = run_cli("export", source, f"{tmp_path / 'file'}/")
    assert (ran.code, (tmp_path / "file").read_bytes()) == (2, b"mine")
    assert "--overwrite" in ran.err


@pytest.mark.parametrize("place", ["{ck}/out", "{ck}/sub/../out", "{link}/out", "{ck}"])
def test_nothing_is_written_into_the_checkpoint(place: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "ck", {"w": torch.ones(2)})
    (tmp_path / "link").symlink_to(folder)
    before = sorted(os.listdir(folder))
    out = place.format(ck=folder, link=tmp_path / "link")
    ran = run_cli("export", folder, out, "--overwrite")
    assert ran.code == 2
    assert sorted(os.listdir(folder)) == before


# A signal (or something else) comes while the third block is written.
INTERRUPTED = """
import os, signal, sys
from inspector.export import copying
from inspector.export.formats import files
copying._MIN_BLOCK_BYTES = 1 << 12
what, source = sys.argv[1], sys.argv[2]
real, count = os.pwrite, 0
def pwrite(*args):
    global count
    count += 1
    if count == 3:
        if what.startswith("SIG"):
            os.kill(os.getpid(), getattr(signal, what))
        elif what == "touch":
            name = sorted(n for n in os.listdir(source) if n.endswith(".distcp"))[0]
            os.utime(os.path.join(source, name), (1, 1))
        elif what == "full":
            raise OSError(28, "No space left on device")
        elif what == "flip":
            real(*args)
            return real(args[0], bytes(b ^ 4 for b in args[1]), args[2])
    return real(*args)
os.pwrite = pwrite
from inspector.__main__ import main
main(["export", source, sys.argv[3]])
"""


@pytest.fixture
def larger(tmp_path: Path) -> Path:
    state = {f"w{n}": torch.randn(64, 64) for n in range(4)}
    return write(tmp_path / "ck", state, {name: shards((64, 64), 0, 4) for name in state})


@pytest.mark.parametrize(
    ("what", "code", "said"),
    [
        ("SIGINT", 2, "stopped|interrupted"),
        ("SIGTERM", 2, "stopped|interrupted"),
        ("full", 2, "no space left"),
        ("flip", 2, "not what was read"),
        ("touch", 1, ""),
    ],
)
def test_nothing_stays_of_what_was_not_finished(
    what: str, code: int, said: str, larger: Path, tmp_path: Path
) -> None:
    target = tmp_path / "to"
    target.mkdir()
    ran = run_python("-c", INTERRUPTED, what, larger, target / "out")
    assert ran.code == code, ran.err
    assert any(word in ran.err for word in said.split("|"))
    assert list(target.iterdir()) == []
    if what == "touch":
        assert "written to while it was read" in ran.out


def test_what_a_killed_export_left_is_named_by_the_next(larger: Path, tmp_path: Path) -> None:
    target = tmp_path / "to"
    target.mkdir()
    ran = run_python("-c", INTERRUPTED, "SIGKILL", larger, target / "out")
    assert ran.code == -signal.SIGKILL
    (left,) = target.iterdir()
    assert left.name != "out"
    again = run_cli("export", larger, target / "out", "--json")
    assert again.code == 0
    assert again.json()["leftovers"] == [str(left)]
    assert left.name in again.err
    assert left.exists()


def test_progress_may_stop_it(larger: Path, tmp_path: Path) -> None:
    seen: list[BytesProgress] = []

    def stop(progress: BytesProgress) -> bool:
        seen.append(progress)
        return True

    with pytest.raises(Cancelled):
        exported(larger, tmp_path / "out", progress=stop)
    assert seen[0].bytes_total == 2 * 4 * 64 * 64 * 4
    assert not (tmp_path / "out").exists()


def test_there_is_no_room(larger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    real = shutil.disk_usage

    def nearly_full(path: str) -> Any:
        return real(path)._replace(free=1000)

    monkeypatch.setattr(shutil, "disk_usage", nearly_full)
    with pytest.raises(StorageError, match="are free"):
        exported(larger, tmp_path / "out")


# Names and types.


def test_names_lose_a_prefix_and_follow_rules(tmp_path: Path) -> None:
    state = {
        "model.layers.0.attn.wq": torch.ones(1), "model.layers.11.attn.wq": torch.ones(1),
        "model.a b": torch.ones(1), "other*": torch.ones(1), "model.norm": torch.ones(1),
    }  # fmt: skip
    folder = write(tmp_path / "ck", state)
    rules = tmp_path / "rules"
    rules.write_text(
        '# comment\n\nlayers.*.attn.wq -> model.h.*.q_proj\n"a b" -> "c -> d"\n"other*" -> star\n'
    )
    ran = run_cli(
        "export", folder, tmp_path / "out", "--strip-prefix", "model.", "--rename", rules, "--json"
    )
    assert ran.code == 0, ran.err
    assert {t["fqn"]: t["name"] for t in ran.json()["tensors"]} == {
        "model.layers.0.attn.wq": "model.h.0.q_proj",
        "model.layers.11.attn.wq": "model.h.11.q_proj",
        "model.a b": "c -> d", "other*": "star", "model.norm": "norm",
    }  # fmt: skip
    assert set(load_file(tmp_path / "out")) == {t["name"] for t in ran.json()["tensors"]}


@pytest.mark.parametrize(
    ("options", "rules", "said"),
    [
        (["--strip-prefix", "nope."], "", "no name begins with"),
        ([], "a.w -> b.w", "2 entries would be b.w"),
        ([], "c.w -> d", "fits no name"),
        ([], "a.* b -> c", "no rule"),
        ([], "a.w", "no rule"),
        ([], "a.* -> c", "another number of"),
        ([], "a.** -> c.**", "side by side"),
        ([], '"a.w -> c', "no JSON string"),
        (["--filter", "nothing"], "", "fits the filter"),
        (["--nested"], "", "--nested is for"),
        (["--max-shard-size", "5GB", "--format", "npz"], "", "for --format safetensors"),
        (["--memory", "1MB"], "", "100MB or more"),
        (["--format", "npy"], "", "holds one tensor"),
        (["--rename", "/dev/null/x"], "", "cannot read the rules"),
    ],
)
def test_mistakes_are_told(options: list[str], rules: str, said: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "ck", {"a.w": torch.ones(1), "b.w": torch.ones(1)})
    if rules:
        (tmp_path / "rules").write_text(rules)
        options = [*options, "--rename", str(tmp_path / "rules")]
    with pytest.raises(InspectError) as caught:
        run_command(["export", str(folder), str(tmp_path / "out"), *options])
    assert caught.value.exit_code == 2
    assert said in caught.value.message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["../x", "/abs", "c:x", "b\\..\\x", "", "\x1b[2J"])
def test_names_that_an_archive_must_not_have(name: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "ck", {name: torch.ones(2), "good": torch.zeros(2)})
    with pytest.raises(UsageError) as caught:
        exported(folder, tmp_path / "out.npz", form="npz")
    assert "\x1b" not in caught.value.message
    assert "1 tensor" in caught.value.message
    # In a header they are names like others, and no file is called so.
    exported(folder, tmp_path / "shards", max_shard_bytes=4)
    names = {path.name for path in (tmp_path / "shards").iterdir()}
    assert all(n.startswith("model") for n in names)
    index = json.loads((tmp_path / "shards" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == {name, "good"}


def test_a_name_of_the_header_itself(tmp_path: Path) -> None:
    folder = write(tmp_path / "ck", {"__metadata__": torch.ones(2)})
    with pytest.raises(UsageError, match="the header's own"):
        exported(folder, tmp_path / "out")


def test_one_tensor_goes_to_a_pipe(tmp_path: Path) -> None:
    tensor = torch.randn(300, 7)
    folder = write(tmp_path / "ck", {"w": tensor, "w.2": tensor}, {"w": shards((300, 7), 1, 3)})
    command = [sys.executable, "-m", "inspector", "export", str(folder), "-", "--format", "npy"]
    ran = subprocess.run([*command, "--filter", "w"], capture_output=True, cwd=ROOT, timeout=600)
    (tmp_path / "w.npy").write_bytes(ran.stdout)
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert np.array_equal(np.load(tmp_path / "w.npy"), tensor.numpy())
    file, offset, length = place_of(folder, "w", (0, 3))
    data = bytearray(file.read_bytes())
    data[offset + length // 2] ^= 1
    file.write_bytes(data)
    ran = subprocess.run([*command, "--filter", "w"], capture_output=True, cwd=ROOT, timeout=600)
    assert (ran.returncode, ran.stdout) == (1, b"")
    assert b"CRC32" in ran.stderr


def test_json_tells_all_of_it(tmp_path: Path) -> None:
    ran = run_cli(
        "export", SAMPLES / "fsdp2_adamw_4", tmp_path / "out", "--json", "--dtype", "bf16"
    )
    told = ran.json()
    assert (ran.code, told["schema"], told["verdict"]) == (0, 1, "written")
    assert told["num_tensors"] == len(told["tensors"]) > 0
    assert told["num_bytes"] == (tmp_path / "out").stat().st_size
    assert {item["kind"] for item in told["left_out"]} == {"bytes"}
    assert {t["dtype"] for t in told["tensors"] if t["stored_dtype"] == "float32"} == {"bfloat16"}
    assert told["checksums"]["none_stored"] == 0


def test_packed_tensors_are_whole_and_not_exportable(tmp_path: Path) -> None:
    """Whose values only their class knows: named, exit code 2, and left out on request."""
    folder = write(tmp_path / "ck", {"w": torch.ones(4), "q": torch.ones(4)})
    quantized = torch.quantize_per_tensor(torch.ones(4), 0.5, 1, torch.qint8)
    other = write(tmp_path / "other", {"q": quantized})
    to, source = folder / "__9_0.distcp", place_of(other, "q")
    to.write_bytes(source[0].read_bytes()[source[1] : source[1] + source[2]])

    def change(metadata: Any) -> None:
        for index, info in metadata.storage_data.items():
            if index.fqn == "q":
                info.relative_path, info.offset, info.length = to.name, 0, source[2]
        entry = metadata.state_dict_metadata["q"]
        entry.properties.dtype = torch.qint8

    edit(folder, change)
    for form in ("safetensors", "torch", "npz"):
        try:
            report = exported(folder, tmp_path / "out", form=form)
        except InspectError as error:
            assert error.exit_code == 2
            assert "q: " in error.message
        else:
            assert (report.verdict, report.exit_code) == ("refused", 2)
            assert [item.fqn for item in report.left_out] == ["q"]
        assert not (tmp_path / "out").exists()
    assert exported(folder, tmp_path / "out", filter_text="!q").exit_code == 0


MEASURED = r"""
import re, sys
from inspector.checkpoint.find.locate import folder_of, read_checkpoint
from inspector.export.run import export
from inspector.export.selection import ExportRequest, select
storage = folder_of(sys.argv[1])
checkpoint = read_checkpoint(storage)
request = ExportRequest(sys.argv[3])
report = export(checkpoint, storage, select(checkpoint, storage, request), sys.argv[2])
assert report.verdict == "written", report
print(int(re.findall(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[0]) * 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
@pytest.mark.parametrize("dim", [0, 1])
def test_memory_stays_what_was_asked_for(dim: int, tmp_path: Path) -> None:
    """600 MB of one tensor in 256 pieces: of rows, and of columns."""
    tensor = torch.randn(12_000, 12_288)
    cuts = {"w": shards(tuple(tensor.shape), dim, 256)}
    folder = write(tmp_path / "ck", {"w": tensor}, cuts, num_files=64)
    del tensor
    # In a process of its own, which is not the child of a large one: that would count.
    outer = "import subprocess as s, sys; sys.exit(s.call([sys.executable, '-c', *sys.argv[1:]]))"
    ran = run_python("-c", outer, MEASURED, str(folder), str(tmp_path / "out"), "torch")
    assert ran.code == 0, ran.err
    assert int(ran.out) < 300 * 10**6
