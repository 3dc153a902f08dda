"""The broken samples: what is done to a good one, and what must be said of the result.

The expectations are written by hand and nothing here imports the inspector: its tests compare.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import FileSystemWriter, SerializationFormat
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from maker import editing as ed

FOLDER = "broken"
TIME = 1_700_000_000
EXIT = {"sound": 0, "damaged": 1, "suspicious": 1, "unreadable": 2}

# Names in the base sample, hsdp_2x2: two chunks of each tensor, of 2 x 2 ranks.
W1, W2, W3 = "model.net1.weight", "model.net2.weight", "model.net3.weight"
B1, B2, B3 = "model.net1.bias", "model.net2.bias", "model.net3.bias"


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """A broken sample.

    Attributes:
        name: Its folder.
        about: What is wrong, for people.
        make: Breaks a copy of the base.
        must: Finding codes that `check` must give.
        may: Others that it may give besides.
        verdict: What it must conclude.
        exit: The exit code, where the verdict alone does not say it.
        needs: The option that it takes to see it.
        base: The good sample, by path.
    """

    name: str
    about: str
    make: Callable[[Path], object]
    must: tuple[str, ...]
    may: tuple[str, ...] = ()
    verdict: str = "damaged"
    exit: int | None = None
    needs: str = ""
    base: str = "hsdp_2x2"

    def as_json(self) -> dict[str, Any]:
        """The record in `expected.json`."""
        record = dataclasses.asdict(self)
        del record["make"], record["name"]
        exit_code = EXIT[self.verdict] if self.exit is None else self.exit
        return {**record, "exit": exit_code}


class Runs:
    """Pickles as a call of `os.system`, as an attacker would; the command does nothing."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("true",)


# -- edits -------------------------------------------------------------------------------------


def write(name: str, data: bytes) -> Callable[[Path], object]:
    """Writes a file of the checkpoint anew."""
    return lambda folder: (folder / name).write_bytes(data)


def only_metadata(data: bytes) -> Callable[[Path], object]:
    """Leaves nothing but metadata of these bytes: small where the data files do not matter."""

    def make(folder: Path) -> None:
        for path in folder.iterdir():
            path.unlink()
        (folder / ".metadata").write_bytes(data)

    return make


def cut(name: str, keep: float) -> Callable[[Path], object]:
    """Cuts a file to a part of its size."""

    def make(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: int(len(data) * keep)])

    return make


def grow(name: str, data: bytes) -> Callable[[Path], object]:
    """Appends bytes to a file."""
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes() + data)


def rename(old: str, new: str) -> Callable[[Path], object]:
    """Renames a file of the checkpoint."""
    return lambda folder: (folder / old).rename(folder / new)


def remove(name: str) -> Callable[[Path], object]:
    """Removes a file of the checkpoint."""
    return lambda folder: (folder / name).unlink()


def copy(source: str, name: str) -> Callable[[Path], object]:
    """Copies a file under another name."""
    return lambda folder: shutil.copyfile(folder / source, folder / name)


def edited(change: Callable[[Metadata], object]) -> Callable[[Path], object]:
    """Changes the metadata."""
    return partial(ed.edit, change=change)


def swap_files(first: str, second: str) -> Callable[[Path], object]:
    """Exchanges two files."""

    def make(folder: Path) -> None:
        a, b = (folder / name for name in (first, second))
        one, other = a.read_bytes(), b.read_bytes()
        a.write_bytes(other)
        b.write_bytes(one)

    return make


def patched(
    change: Callable[[bytes], bytes], fqn: str = W1, number: int = 0
) -> Callable[[Path], object]:
    """Changes the bytes of one payload."""
    return lambda folder: ed.patch_payload(folder, fqn, number, change)


def with_element(fqn: str, at: tuple[int, ...], value: float) -> Callable[[Path], object]:
    """Saves a chunk again with one element changed."""

    def make(folder: Path) -> None:
        tensor = ed.load_payload(folder, fqn)
        tensor[at] = value
        ed.patch_payload(folder, fqn, 0, lambda _: ed.saved(tensor))

    return make


def no_checksums(folder: Path) -> None:
    """Saves a chunk again without CRC32."""
    tensor = ed.load_payload(folder, W1)
    ed.patch_payload(folder, W1, 0, lambda _: ed.saved(tensor, checksums=False))


def legacy_format(folder: Path) -> None:
    """Saves a chunk again as torch did before 1.6."""
    tensor = ed.load_payload(folder, W1)
    ed.patch_payload(folder, W1, 0, lambda _: ed.saved_before_1_6(tensor))


def flip_data(payload: bytes) -> bytes:
    """Turns the top bit of the exponent in the second element."""
    return ed.flip_bit(payload, ed.data_start(payload) + 7, 6)


def zeroed(payload: bytes) -> bytes:
    """Zeros, as a sparse file has where it was not written out."""
    return bytes(len(payload))


def swap_pointers(folder: Path) -> None:
    """Lets the two halves of a tensor point at each other."""
    ed.swap_stored(folder, (W1, 0), (W1, 1))


def unsafe_bytes(folder: Path) -> None:
    """Adds a bytes entry that would run a command."""
    ed.add_bytes(folder, "step", ed.saved(Runs()), "__0_0.distcp")


def corrupt_bytes(folder: Path) -> None:
    """Adds a bytes entry and turns a bit of its value."""
    payload = ed.saved(0.1)
    at = payload.index(b"G?\xb9\x99") + 5
    ed.add_bytes(folder, "lr", ed.flip_bit(payload, at), "__0_0.distcp")


def empty(metadata: Metadata) -> None:
    """An empty state dict."""
    metadata.state_dict_metadata = {}
    metadata.storage_data = {}
    metadata.planner_data = {}


def without_payloads(folder: Path) -> None:
    """A save of an empty state dict: every rank's file is there and empty."""
    ed.edit(folder, empty)
    for path in folder.glob("*.distcp"):
        path.write_bytes(b"")


def as_folder(folder: Path) -> None:
    """A folder where a data file should be."""
    (folder / "__1_0.distcp").unlink()
    (folder / "__1_0.distcp").mkdir()
    (folder / "__1_0.distcp" / "part-0").write_bytes(b"?")


def as_paddle(folder: Path) -> None:
    """The names of PaddlePaddle's distributed checkpoints."""
    for path in list(folder.iterdir()):
        path.unlink()
    for name in ("0.metadata", "0_0.distcp", "1_0.distcp"):
        (folder / name).write_bytes(b"paddle")


def as_safetensors(folder: Path) -> None:
    """Saves the tensors again, in one process, with `SerializationFormat.SAFETENSORS`."""
    state = {
        fqn: torch.empty(entry.size)
        for fqn, entry in ed.metadata_of(folder).state_dict_metadata.items()
    }
    load(state, checkpoint_id=folder, no_dist=True)
    for path in list(folder.iterdir()):
        path.unlink()
    writer = FileSystemWriter(folder, serialization_format=SerializationFormat.SAFETENSORS)
    save(state, storage_writer=writer, no_dist=True)
    ed.edit(folder, anonymous)
    # The package writes `__metadata__` in another order every time.
    file = folder / "__0_0.distcp"
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + length]), sort_keys=True, separators=(",", ":"))
    file.write_bytes(data[:8] + header.encode().ljust(length) + data[8 + length :])


def anonymous(metadata: Metadata) -> None:
    """Takes out what a save makes up anew every time, and where it was made."""
    metadata.storage_meta.save_id = "0" * 8
    metadata.storage_meta.checkpoint_id = None


def wrong_dtype(metadata: Metadata) -> None:
    """Another dtype than the payloads', of the same size."""
    metadata.state_dict_metadata[W1].properties.dtype = torch.int32


def unknown_class(folder: Path) -> None:
    """Gives the metadata a field of a class that whoever reads the sample does not have."""
    module = types.ModuleType("somebodys_trainer")
    module.State = type("State", (), {"__module__": module.__name__})  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    try:
        ed.edit(folder, lambda metadata: setattr(metadata, "trainer", module.State()))
    finally:
        del sys.modules[module.__name__]


def larger(metadata: Metadata) -> None:
    """A tensor of more rows than its chunks have."""
    metadata.state_dict_metadata[W1].size = torch.Size([10, 5])


def negative_size(metadata: Metadata) -> None:
    """A chunk of minus four rows."""
    chunk = metadata.state_dict_metadata[W1].chunks[1]
    chunk.sizes = torch.Size([-4, 5])


def unstored(metadata: Metadata) -> None:
    """A chunk whose storage entry is gone."""
    del metadata.storage_data[ed.index_of(metadata, W1, 1)]


def orphaned(metadata: Metadata) -> None:
    """An entry taken out of the state dict, but not out of the storage."""
    del metadata.state_dict_metadata[B1]
    del metadata.planner_data[B1]


def bomb(levels: int = 60) -> bytes:
    """A tuple that holds the one before it twice, and so on, as a key: hashing it never ends."""
    steps = b"".join(b"h" + bytes([i, ord("h"), i]) + b"\x86\x940" for i in range(levels))
    return b"\x80\x04)\x940" + steps + b"}h" + bytes([levels]) + b"K\x01s."


LFS_POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:" + b"0123456789abcdef" * 4 + b"\nsize 2645\n"
)


# -- edits of safetensors files ----------------------------------------------------------------


def with_header(name: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    """Changes the header of a safetensors file; the elements stay as they are."""

    def make(folder: Path) -> None:
        data = (folder / name).read_bytes()
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        change(header)
        text = json.dumps(header).encode()
        (folder / name).write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])

    return make


def with_index(change: Callable[[dict[str, str]], object]) -> Callable[[Path], object]:
    """Changes the weight map of the index."""

    def make(folder: Path) -> None:
        file = folder / "model.safetensors.index.json"
        index = json.loads(file.read_text())
        change(index["weight_map"])
        file.write_text(json.dumps(index, indent=2))

    return make


def overlapping(header: dict[str, Any]) -> None:
    """Lets one tensor begin where another does."""
    header["net1.bias"]["data_offsets"] = header["net4.bias"]["data_offsets"][:1] + [
        header["net4.bias"]["data_offsets"][0] + 40
    ]


def huge_header(folder: Path) -> None:
    """A header said to be of a terabyte."""
    file = folder / WHOLE
    file.write_bytes((1 << 40).to_bytes(8, "little") + file.read_bytes()[8:])


def bytes_first(folder: Path) -> None:
    """What `HuggingFaceStorageWriter` does with an entry that is no tensor, such as a step."""
    file = folder / SHARD_2
    file.write_bytes(ed.saved(5) + file.read_bytes())


WHOLE = "model-00001-of-00001.safetensors"
SHARD_2 = "shard-00002-model-00001-of-00001.safetensors"
INDEX_ALONE = {"model.embed_tokens.weight": "../../hsdp_2x2/model.safetensors"}


# -- the samples -------------------------------------------------------------------------------

_TAIL = ("bytes-unreferenced",)

BROKEN: dict[str, Broken] = {
    case.name: case
    for case in (
        Broken(
            name="metadata_missing",
            about="data files without `.metadata`",
            make=remove(".metadata"),
            must=("metadata-missing",),
            verdict="unreadable",
        ),
        Broken(
            name="metadata_tmp_cut",
            about="only half a `.metadata.tmp` (`run/step-300` has a whole one)",
            make=lambda folder: (
                cut(".metadata", 0.5)(folder),
                rename(".metadata", ".metadata.tmp")(folder),
            ),
            must=("metadata-missing", "save-unfinished"),
            verdict="unreadable",
        ),
        Broken(
            name="metadata_empty",
            about="`.metadata` of no bytes",
            make=only_metadata(b""),
            must=("metadata-truncated",),
            verdict="unreadable",
        ),
        Broken(
            name="metadata_cut",
            about="the first two thirds of `.metadata`",
            make=cut(".metadata", 0.67),
            must=("metadata-truncated",),
            verdict="unreadable",
        ),
        Broken(
            name="metadata_lfs_pointer",
            about="a Git LFS pointer in place of `.metadata`",
            make=only_metadata(LFS_POINTER),
            must=("metadata-unreadable",),
            verdict="unreadable",
        ),
        Broken(
            name="metadata_bomb",
            about="200 bytes of pickle that would be hashed for years",
            make=only_metadata(bomb()),
            must=("metadata-unreadable",),
            verdict="unreadable",
        ),
        Broken(
            name="metadata_unsafe",
            about="`.metadata` calls `os.system` (with `true`)",
            make=edited(lambda m: setattr(m, "trainer", Runs())),
            must=("metadata-unsafe",),
            verdict="suspicious",
        ),
        Broken(
            name="metadata_unknown_class",
            about="an object of a package that nobody has",
            make=unknown_class,
            must=("metadata-unknown-class",),
            verdict="sound",
        ),
        Broken(
            name="metadata_trailing",
            about="64 bytes after the pickle's end",
            make=grow(".metadata", bytes(64)),
            must=("metadata-trailing-bytes",),
            verdict="sound",
        ),
        Broken(
            name="metadata_future",
            about="metadata of version 9.0.0",
            make=edited(lambda m: setattr(m, "version", "9.0.0")),
            must=("metadata-version",),
            verdict="sound",
        ),
        Broken(
            name="rank_metadata_missing",
            about="metadata of each rank, and that of rank 1 is gone",
            base="per_rank_metadata_2",
            make=remove("__1.metadata"),
            must=("rank-missing",),
            may=("chunk-gap", "file-unreferenced"),
        ),
        Broken(
            name="rank_skipped",
            about="the empty file of rank 2 is gone, as some object stores leave it",
            base="lowest_rank_2x2",
            make=remove("__2_0.distcp"),
            must=("rank-missing",),
            verdict="sound",
        ),
        Broken(
            name="name_bidi",
            about="a name that shows backwards",
            make=lambda folder: ed.rename_entry(folder, B2, "model.net2.\u202esaib"),
            must=("name-unprintable",),
            verdict="sound",
        ),
        Broken(
            name="entry_negative",
            about="a chunk of -4 rows",
            make=edited(negative_size),
            must=("entry-malformed",),
            may=("chunk-gap", "storage-orphan", *_TAIL),
        ),
        Broken(
            name="path_parent",
            about="a payload in `../../hsdp_2x2`",
            make=lambda folder: ed.set_stored(
                folder, W1, relative_path="../../hsdp_2x2/__0_0.distcp"
            ),
            must=("path-escapes",),
            may=_TAIL,
            verdict="suspicious",
        ),
        Broken(
            name="chunk_gap",
            about="rows 4 to 7 of a tensor are in no chunk",
            make=lambda folder: ed.drop_chunk(folder, W1, 1),
            must=("chunk-gap",),
            may=_TAIL,
        ),
        Broken(
            name="chunk_none",
            about="a tensor without any chunk",
            make=lambda folder: (ed.drop_chunk(folder, B3, 1), ed.drop_chunk(folder, B3, 0)),
            must=("chunk-gap",),
            may=_TAIL,
        ),
        Broken(
            name="chunk_overlap_and_gap",
            about="the second half begins a row early: one row twice, one never",
            make=lambda folder: ed.move_chunk(folder, W1, 1, offsets=[3, 0], sizes=[4, 5]),
            must=("chunk-gap", "chunk-overlap"),
        ),
        Broken(
            name="chunk_duplicate",
            about="a chunk is listed twice",
            make=lambda folder: ed.set_chunks(folder, W1, lambda c: c.append(c[0])),
            must=("chunk-duplicate",),
        ),
        Broken(
            name="chunk_out_of_bounds",
            about="the second half begins two rows late",
            make=lambda folder: ed.move_chunk(folder, W1, 1, offsets=[6, 0], sizes=[4, 5]),
            must=("chunk-gap", "chunk-out-of-bounds"),
        ),
        Broken(
            name="tensor_larger",
            about="a tensor of 10 rows, of which 8 were saved",
            make=edited(larger),
            must=("chunk-gap",),
        ),
        Broken(
            name="chunk_unstored",
            about="a chunk without storage entry",
            make=edited(unstored),
            must=("chunk-unstored",),
            may=_TAIL,
        ),
        Broken(
            name="storage_orphan",
            about="a tensor taken out of the state dict, but not out of the storage",
            make=edited(orphaned),
            must=("storage-orphan",),
            may=_TAIL,
            verdict="sound",
        ),
        Broken(
            name="byte_ranges_overlap",
            about="a payload said to begin 800 bytes early, inside another",
            make=lambda folder: ed.set_stored(folder, B2, offset=841),
            must=("byte-range-overlap",),
            may=_TAIL,
        ),
        Broken(
            name="range_short",
            about="a payload said to be 60 bytes long",
            make=lambda folder: ed.set_stored(folder, W1, length=60),
            must=("range-too-short",),
            may=_TAIL,
        ),
        Broken(
            name="safetensors_blob",
            about="written with `SerializationFormat.SAFETENSORS`, which torch cannot load",
            make=as_safetensors,
            must=("byte-range-overlap",),
            may=_TAIL,
        ),
        Broken(
            name="optimizer_incomplete",
            about="one parameter lacks `exp_avg_sq`",
            base="accelerate_fsdp/optimizer_0",
            make=lambda folder: ed.drop_entry(folder, "optimizer.state.norm.weight.exp_avg_sq"),
            must=("optimizer-incomplete",),
            may=_TAIL,
            verdict="sound",
        ),
        Broken(
            name="file_missing",
            about="the file of rank 1 is gone",
            make=remove("__1_0.distcp"),
            must=("file-missing",),
        ),
        Broken(
            name="file_cut",
            about="the last byte of rank 2's file is gone",
            make=lambda folder: (folder / "__2_0.distcp").write_bytes(
                (folder / "__2_0.distcp").read_bytes()[:-1]
            ),
            must=("file-truncated",),
        ),
        Broken(
            name="file_empty",
            about="rank 2's file is empty, though it should hold three payloads",
            make=write("__2_0.distcp", b""),
            must=("file-truncated",),
        ),
        Broken(
            name="file_is_folder",
            about="a folder where rank 1's file should be",
            make=as_folder,
            must=("file-unreadable",),
        ),
        Broken(
            name="files_of_more_ranks",
            about="rank 4's file, left from an earlier save with more ranks",
            make=copy("__3_0.distcp", "__4_0.distcp"),
            must=("file-unreferenced",),
            verdict="sound",
        ),
        Broken(
            name="file_leftover",
            about="a `.metadata.tmp` beside `.metadata`: a later save did not finish",
            make=copy(".metadata", ".metadata.tmp"),
            must=("file-leftover",),
            verdict="sound",
        ),
        Broken(
            name="bytes_trailing",
            about="100 bytes at a file's end that nothing owns",
            make=grow("__3_0.distcp", b"\xa5" * 100),
            must=("bytes-unreferenced",),
            verdict="sound",
        ),
        Broken(
            name="pointers_swapped",
            about="two halves of a tensor point at each other's payload",
            make=swap_pointers,
            must=("file-newer",),
            verdict="sound",
        ),
        Broken(
            name="ranks_swapped",
            about="the files of ranks 0 and 2 are exchanged",
            make=swap_files("__0_0.distcp", "__2_0.distcp"),
            must=("payload-mismatch",),
            may=("payload-unreadable", "file-truncated", *_TAIL),
            needs="--deep",
        ),
        Broken(
            name="payload_zeroed",
            about="a payload of zeros",
            make=patched(zeroed),
            must=("payload-unreadable",),
            needs="--deep",
        ),
        Broken(
            name="payload_dtype",
            about="float32 payloads that the metadata calls int32",
            make=edited(wrong_dtype),
            must=("payload-mismatch",),
            needs="--deep",
        ),
        Broken(
            name="bit_flip",
            about="one bit of a tensor's elements is turned",
            make=patched(flip_data),
            must=("payload-corrupt",),
            needs="--deep",
        ),
        Broken(
            name="bit_flip_in_bytes",
            about="one bit of a learning rate is turned",
            make=corrupt_bytes,
            must=("payload-corrupt",),
            needs="--deep",
        ),
        Broken(
            name="payload_unsafe",
            about="a bytes entry calls `os.system` (with `true`)",
            make=unsafe_bytes,
            must=("payload-unsafe",),
            verdict="suspicious",
            needs="--deep",
        ),
        Broken(
            name="payload_legacy",
            about="a payload in torch.save's format of before 1.6",
            make=legacy_format,
            must=("payload-format", "payload-no-checksum"),
            verdict="sound",
            needs="--deep",
        ),
        Broken(
            name="no_checksum",
            about="a payload saved without CRC32",
            make=no_checksums,
            must=("payload-no-checksum",),
            verdict="sound",
            needs="--deep",
        ),
        Broken(
            name="values_nan",
            about="one element is NaN",
            make=with_element(W1, (1, 2), float("nan")),
            must=("values-nan",),
            verdict="sound",
            needs="--values",
        ),
        Broken(
            name="values_inf",
            about="one element is minus infinity",
            make=with_element(W2, (0, 7), float("-inf")),
            must=("values-inf",),
            verdict="sound",
            needs="--values",
        ),
        Broken(
            name="metadata_of_more_ranks",
            about="`.metadata` of another save, of 8 ranks, over 4 ranks' data",
            make=lambda folder: shutil.copyfile(
                folder.parents[1] / "hsdp_2x4" / ".metadata", folder / ".metadata"
            ),
            must=("file-missing",),
            may=_TAIL,
        ),
        Broken(
            name="empty",
            about="an empty state dict: nothing to check, so exit code 2",
            make=without_payloads,
            must=(),
            verdict="suspicious",
            exit=2,
        ),
        Broken(
            name="st_shard_missing",
            about="safetensors shards: the file of the second rank is gone",
            base="hf_dcp_sharded_4",
            make=remove(SHARD_2),
            must=("chunk-gap", "rank-missing"),
        ),
        Broken(
            name="st_shard_unreadable",
            about="a bytes entry saved with HuggingFaceStorageWriter, before the header",
            base="hf_dcp_sharded_4",
            make=bytes_first,
            must=("file-unreadable", "chunk-gap"),
        ),
        Broken(
            name="st_file_missing",
            about="a safetensors file that the index names is gone",
            base="transformers_1",
            make=remove("model-00002-of-00002.safetensors"),
            must=("file-missing",),
        ),
        Broken(
            name="st_cut",
            about="the last byte of a safetensors file is gone",
            base="hf_dcp_whole_1",
            make=cut(WHOLE, 0.9999),
            must=("file-truncated",),
        ),
        Broken(
            name="st_trailing",
            about="bytes after the last tensor, with which safetensors opens no file",
            base="hf_dcp_whole_1",
            make=grow(WHOLE, bytes(8)),
            must=("bytes-unreferenced",),
        ),
        Broken(
            name="st_overlap",
            about="two tensors of a safetensors file share bytes",
            base="hf_dcp_whole_1",
            make=with_header(WHOLE, overlapping),
            must=("byte-range-overlap", "bytes-unreferenced"),
        ),
        Broken(
            name="st_index_stale",
            about="the index lists a tensor that no file has, and lacks one",
            base="transformers_1",
            make=with_index(lambda m: m.update({"model.extra.weight": m.pop("lm_head.weight")})),
            must=("index-mismatch",),
        ),
        Broken(
            name="st_index_escapes",
            about="the index places a tensor in `../../hsdp_2x2`",
            base="transformers_1",
            make=with_index(lambda m: m.update(INDEX_ALONE)),
            must=("path-escapes",),
            may=("index-mismatch",),
            verdict="suspicious",
        ),
        Broken(
            name="st_header_huge",
            about="a safetensors header said to be of a terabyte",
            base="hf_dcp_whole_1",
            make=huge_header,
            must=("metadata-unreadable",),
            verdict="unreadable",
        ),
        Broken(
            name="paddle",
            about="not torch's: the file names of a PaddlePaddle checkpoint",
            make=as_paddle,
            must=("metadata-missing",),
            verdict="unreadable",
        ),
    )
}


def write_broken(source: Path, out: Path, names: Iterable[str] = BROKEN) -> None:
    """Writes broken samples, and the expectations of all.

    Args:
        source: Where the good samples are.
        out: The folder for the broken ones.
        names: Which to write; the others stay as they are.
    """
    out.mkdir(exist_ok=True)
    for name in names:
        case = BROKEN[name]
        shutil.rmtree(out / name, ignore_errors=True)
        shutil.copytree(source / case.base, out / name)
        case.make(out / name)
        # Times that tell nothing, as after a checkout.
        for path in (out / name).rglob("*"):
            os.utime(path, (TIME, TIME))
    records = {name: case.as_json() for name, case in sorted(BROKEN.items())}
    (out / "expected.json").write_text(json.dumps(records, indent=1) + "\n")


def check_broken(folder: Path) -> list[str]:
    """What is wrong with the folder of broken samples; no checkpoint is read."""
    file = folder / "expected.json"
    recorded = json.loads(file.read_text()) if file.exists() else {}
    expected = json.loads(json.dumps({name: case.as_json() for name, case in BROKEN.items()}))
    there = {path.name for path in folder.iterdir() if path.is_dir()} if folder.exists() else set()
    return [
        *(
            f"{name}: not recorded as it should be"
            for name, record in expected.items()
            if recorded.get(name) != record
        ),
        *(f"{name}: its folder is not there" for name in sorted(expected.keys() - there)),
        *(f"{name}: no case of this name" for name in sorted(there - expected.keys())),
    ]
