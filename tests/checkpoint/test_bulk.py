"""Large metadata read in bulk: the same columns as one by one, or the slow way, never others."""

from __future__ import annotations

import io
import json
import os
import pickle
import pickletools
import random
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed.checkpoint import metadata as dcp

from inspector.checkpoint import open_checkpoint
from inspector.checkpoint.child import process
from inspector.checkpoint.child.isolated import Child, EarlyEntry
from inspector.checkpoint.pickle.bulk import read_bulk
from inspector.checkpoint.pickle.extract import Extraction
from inspector.checkpoint.pickle.gate import GateError, load
from inspector.checkpoint.pickle.splice import WINDOW_BYTES, NotSplicedError, read_spliced
from inspector.errors import MetadataError
from tests.checkpoint.hostile import Runs
from tests.conftest import GOLDEN, SAMPLES, folders_with_metadata, of_few_versions
from tests.helpers.make_metadata import Wanted, make, stream, tensors_of

TENSORS: list[Wanted] = [
    ("model.embed.weight", (96, 40), torch.float32),
    ("model.norm.weight", (47,), torch.bfloat16),
    ("model.experts.w1", (24, 300, 70), torch.bfloat16),
    ("model.conv.weight", (48, 3, 5, 5), torch.float16),
    ("model.été.weight", (24, 2), torch.float32),
]
WORLD = 24
# Bytes that are held at a time: all of these files, some of their runs, or a few records.
WINDOWS = (WINDOW_BYTES, 9000, 700)


def one_by_one(data: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `Extraction` makes of a pickle."""
    file = io.BufferedReader(io.BytesIO(data))
    extraction = Extraction()
    extraction.add(load(file))
    header = extraction.header()
    header["protocol"] = data[1]
    header["trailing_bytes"] = len(file.read())
    return header, extraction.arrays()


def in_bulk(
    data: bytes, folder: Path, window_bytes: int = 0
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the fast way makes of a pickle; in windows of some size, of each pickle the same."""
    window_bytes = window_bytes or WINDOWS[zlib.crc32(data) % len(WINDOWS)]
    path = folder / "pickle"
    path.write_bytes(data)
    fd = os.open(path, os.O_RDONLY)
    try:
        header, columns = read_bulk(fd, len(data), lambda done: None, None, window_bytes)
    finally:
        os.close(fd)
    header.pop("digest")
    return header, columns


def assert_equal(found: tuple[dict[str, Any], Any], expected: tuple[dict[str, Any], Any]) -> None:
    assert found[0] == expected[0]
    assert list(found[1]) == list(expected[1])
    for name, column in expected[1].items():
        assert np.array_equal(np.asarray(found[1][name]), np.asarray(column)), name


def unframed(data: bytes) -> bytes:
    """The opcodes after PROTO, without frames."""
    assert data[:3] == b"\x80\x04\x95"
    at, pieces = 2, []
    while data[at : at + 1] == b"\x95":
        end = at + 9 + int.from_bytes(data[at + 1 : at + 9], "little")
        pieces.append(data[at + 9 : end])
        at = end
    return b"".join([*pieces, data[at:]])


def framed(opcodes: bytes, *borders: int) -> bytes:
    """A pickle of these opcodes, in frames that end at the borders."""
    pieces = [b"\x80\x04"]
    for first, last in zip([0, *borders], [*borders, len(opcodes)], strict=True):
        pieces.append(b"\x95" + (last - first).to_bytes(8, "little") + opcodes[first:last])
    return b"".join(pieces)


def sampled(numbers: list[int], count: int) -> list[int]:
    return random.Random(1).sample(numbers, count)  # noqa: S311


def positions(opcodes: bytes) -> set[int]:
    """Where the opcodes begin."""
    at = {position - 11 for _, _, position in pickletools.genops(framed(opcodes)) if position}
    return {position for position in at if position > 0}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    make(folder, TENSORS, WORLD)
    return folder


@pytest.fixture(scope="module")
def data(made: Path) -> bytes:
    return (made / ".metadata").read_bytes()


@pytest.mark.parametrize("window_bytes", WINDOWS)
def test_it_is_read_in_bulk_and_gives_the_same(
    window_bytes: int, data: bytes, tmp_path: Path
) -> None:
    found = in_bulk(data, tmp_path, window_bytes)
    assert found[0]["tensors"] == [name for name, _, _ in TENSORS]
    assert len(found[1]["file"]) == WORLD * len(TENSORS)
    assert_equal(found, one_by_one(data))
    opcodes = unframed(data)
    for border in sampled(sorted(positions(opcodes)), 100):
        assert_equal(in_bulk(framed(opcodes, border), tmp_path), one_by_one(data))


#: The first, which all others are measured by, and those of an element type met before.
EARLY: list[tuple[str, tuple[int, ...] | None, int | None]] = [
    ("model.embed.weight", None, None),
    ("model.experts.w1", (24, 300, 70), WORLD),
    ("model.été.weight", (24, 2), WORLD),
]


def early_rows(data: bytes, folder: Path, window_bytes: int) -> list[list[Any]]:
    """What is told of the first entries, window by window."""
    told: list[list[Any]] = []
    path = folder / "pickle"
    path.write_bytes(data)
    fd = os.open(path, os.O_RDONLY)
    try:
        read_bulk(fd, len(data), lambda done: None, None, window_bytes, told.append)
    finally:
        os.close(fd)
    return told


def test_the_first_entries_are_told_while_the_rest_is_read(data: bytes, tmp_path: Path) -> None:
    expected = [(name, None if shape is None else [*shape], n) for name, shape, n in EARLY]
    assert early_rows(data, tmp_path, WINDOW_BYTES) == [expected]
    # In small windows some are read otherwise; none is told twice, or as another.
    in_parts = [row for rows in early_rows(data, tmp_path, 9000) for row in rows]
    assert in_parts == [row for row in expected if row in in_parts]
    assert in_parts


@pytest.mark.parametrize("name", ["short", "of many bytes " * 10])
def test_of_the_first_entries_few_are_told(name: str, tmp_path: Path) -> None:
    """The child writes them to a pipe that may have no reader yet."""
    stream(tmp_path / "a", [(f"{name}.{i}", (4, 2), torch.float32) for i in range(400)], 2)
    data = (tmp_path / "a" / ".metadata").read_bytes()
    rows = [row for part in early_rows(data, tmp_path, 9000) for row in part]
    assert 20 < len(rows) <= 201
    assert len(json.dumps(rows)) < 1 << 15


@pytest.mark.own_readers
def test_the_child_tells_them_and_fails_as_ever(
    made: Path, data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_BULK_BYTES", 0)
    told: list[tuple[EarlyEntry, ...]] = []
    Child([str(made / ".metadata")], [None], len(data)).result(early=told.append)
    assert told == [tuple(EarlyEntry(*row) for row in EARLY)]
    cut = tmp_path / "cut"
    cut.write_bytes(data[:-100])
    with pytest.raises(MetadataError, match="the pickle ends too early"):
        Child([str(cut)], [None], len(data)).result(early=told.append)


@pytest.mark.own_readers
@pytest.mark.parametrize("said", ["[not of ours", "[]", "[1, 2]", "7 of 9", "\\xff\\xfe["])
def test_what_a_library_writes_on_the_childs_stderr_is_text(
    said: str, made: Path, data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A numpy that says something as it is imported, and then cannot be."""
    (tmp_path / "numpy.py").write_text(
        f"import os\nos.write(2, b'{said}\\n')\nraise ImportError('none')\n", "utf-8"
    )
    monkeypatch.setattr(process, "_BULK_BYTES", 0)
    monkeypatch.setattr(process, "_numpy_folder", lambda: str(tmp_path))
    told: list[tuple[EarlyEntry, ...]] = []
    header, _ = Child([str(made / ".metadata")], [None], len(data)).result(early=told.append)
    assert [*header["tensors"]][: len(EARLY)] and not told


def test_what_is_written_as_a_stream_is_what_torch_writes(tmp_path: Path) -> None:
    tensors, world = tensors_of("24x24")
    tensors += TENSORS
    written = {}
    for name, write in (("a", make), ("b", stream)):
        write(tmp_path / name, tensors, world)
        metadata = (tmp_path / name / ".metadata").read_bytes()
        # Each save has an id of its own, and the name of its folder.
        metadata = re.sub(rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", b"", metadata)
        sizes = {path.name: path.stat().st_size for path in (tmp_path / name).iterdir()}
        written[name] = metadata.replace(b"\x8c\x01%b\x94" % name.encode(), b""), sizes
    assert written["a"] == written["b"]


def test_bytes_after_the_pickle_are_counted(data: bytes, tmp_path: Path) -> None:
    header, _ = in_bulk(data + b"rubbish", tmp_path)
    assert header["trailing_bytes"] == 7


@pytest.mark.parametrize(
    "folder",
    of_few_versions([*folders_with_metadata(SAMPLES), *folders_with_metadata(GOLDEN)]),
    ids=lambda path: f"{path.parent.name}/{path.name}",
)
def test_no_sample_is_read_as_anything_else(folder: Path, tmp_path: Path) -> None:
    data = (folder / ".metadata").read_bytes()
    try:
        found = in_bulk(data, tmp_path)
    except NotSplicedError:
        return  # Too small or too old: the slow way reads it.
    assert_equal(found, one_by_one(data))


@pytest.mark.parametrize("version", sorted(path.name for path in GOLDEN.iterdir()))
def test_every_version_of_torch_writes_what_is_read_in_bulk(version: str, tmp_path: Path) -> None:
    num_read = 0
    for folder in folders_with_metadata(GOLDEN / version):
        try:
            in_bulk((folder / ".metadata").read_bytes(), tmp_path)
            num_read += 1
        except NotSplicedError:
            pass  # Too small, or of no chunks.
    assert num_read


def saved(folder: Path, change: Callable[[dcp.Metadata], None], made: Path) -> bytes:
    """The metadata once more, changed by a function, as torch's own classes pickle it."""
    metadata = pickle.loads((made / ".metadata").read_bytes())
    change(metadata)
    return pickle.dumps(metadata, 4)


def share_names(metadata: dcp.Metadata) -> None:
    """As a single process saves: one string for all the places of a tensor."""
    names = {fqn: fqn for fqn in metadata.state_dict_metadata}
    for index in metadata.storage_data:
        object.__setattr__(index, "fqn", names[index.fqn])


def name_first_in_storage(metadata: dcp.Metadata) -> None:
    """The names' strings stand in the records themselves, and are referred to from there."""
    names: dict[str, str] = {}
    for index in metadata.storage_data:
        object.__setattr__(index, "fqn", names.setdefault(index.fqn, index.fqn))


def own_paths(metadata: dcp.Metadata) -> None:
    """Every place with a string of its own for its file."""
    for info in metadata.storage_data.values():
        info.relative_path = info.relative_path.encode().decode()


def tensor_by_tensor(metadata: dcp.Metadata) -> None:
    """Places in another order, so that paths are referred to from far."""
    places = sorted(metadata.storage_data.items(), key=lambda item: item[0].fqn)
    metadata.storage_data = dict(places)


def bytes_between(metadata: dcp.Metadata) -> None:
    """Entries that are no tensors, among the tensors' places."""
    places = list(metadata.storage_data.items())
    first = places[0][1]
    mixed = []
    for number, place in enumerate(places):
        mixed.append(place)
        fqn = f"extra.{number}"
        metadata.state_dict_metadata[fqn] = dcp.BytesStorageMetadata()
        mixed.append((dcp.MetadataIndex(fqn), type(first)(first.relative_path, number, 1)))
    metadata.storage_data = dict(mixed)


def optimizer(metadata: dcp.Metadata) -> None:
    """Behind each tensor's entry some that are no tensors, of one rank, with paths of their own."""
    first = next(iter(metadata.storage_data.values()))
    entries, places = {}, {}
    for fqn, entry in metadata.state_dict_metadata.items():
        entries[fqn] = entry
        for number, kind in enumerate(("lr", "betas", "eps", "foreach")):
            name = f"optim.{fqn}.{kind}"
            entries[name] = dcp.BytesStorageMetadata()
            if kind != "eps":  # One that lies nowhere.
                index = dcp.MetadataIndex(name.encode().decode())
                places[index] = type(first)(first.relative_path, number, 1)
            metadata.planner_data[name.encode().decode()] = ("optim", fqn, kind)
    metadata.state_dict_metadata = entries
    metadata.storage_data = {**places, **metadata.storage_data}


def large_numbers(metadata: dcp.Metadata) -> None:
    sizes = [1 << 7, 1 << 8, 1 << 15, 1 << 16, 1 << 31, (1 << 31) - 1, 1 << 40, (1 << 62) - 1]
    for number, info in enumerate(metadata.storage_data.values()):
        info.offset = sizes[number % len(sizes)]
        info.length = sizes[number // 3 % len(sizes)]


@pytest.mark.parametrize("window_bytes", WINDOWS)
@pytest.mark.parametrize(
    "change",
    [share_names, name_first_in_storage, own_paths, tensor_by_tensor, bytes_between, optimizer]
    + [large_numbers],
)
def test_other_ways_of_writing_are_read_in_bulk_as_well(
    change: Callable[[dcp.Metadata], None], window_bytes: int, made: Path, tmp_path: Path
) -> None:
    data = saved(tmp_path, change, made)
    assert_equal(in_bulk(data, tmp_path, window_bytes), one_by_one(data))


def test_bytes_entries_are_read_in_runs(made: Path, tmp_path: Path) -> None:
    data = saved(tmp_path, optimizer, made)
    path = tmp_path / "pickle"
    path.write_bytes(data)
    with open(path, "rb") as file:
        spliced = read_spliced(file.fileno(), len(data), lambda done: None)
    count = sum(run.last - run.first for run in spliced.runs if run.kind == "bytes_entries")
    # The first names the class, and is read as any.
    assert count == 4 * len(TENSORS) - 1


def chunk_unstored(metadata: dcp.Metadata) -> None:
    del metadata.storage_data[list(metadata.storage_data)[-7]]


def place_without_chunk(metadata: dcp.Metadata) -> None:
    del metadata.state_dict_metadata["model.embed.weight"].chunks[-3]


def wrong_hint(metadata: dcp.Metadata) -> None:
    object.__setattr__(list(metadata.storage_data)[-7], "index", 3)


def no_hint(metadata: dcp.Metadata) -> None:
    object.__setattr__(list(metadata.storage_data)[-7], "index", None)


def two_bytes_places(metadata: dcp.Metadata) -> None:
    """Of one entry, in a run and twice; the later one counts."""
    optimizer(metadata)
    index = next(i for i in metadata.storage_data if i.fqn.endswith("weight.foreach"))
    place = metadata.storage_data[index]
    again = dcp.MetadataIndex(index.fqn.encode().decode(), None, 7)
    metadata.storage_data[again] = type(place)(place.relative_path, 99, 1)


def bytes_place_of_nothing(metadata: dcp.Metadata) -> None:
    optimizer(metadata)
    del metadata.state_dict_metadata["optim.model.norm.weight.lr"]


def bytes_place_with_offset(metadata: dcp.Metadata) -> None:
    optimizer(metadata)
    index = next(i for i in metadata.storage_data if i.fqn.endswith("weight.foreach"))
    object.__setattr__(index, "offset", torch.Size([0]))
    object.__setattr__(index, "index", 0)


def bytes_with_state(metadata: dcp.Metadata) -> None:
    optimizer(metadata)
    for entry in list(metadata.state_dict_metadata.values())[3::7]:
        if isinstance(entry, dcp.BytesStorageMetadata):
            entry.more = [1]  # type: ignore[attr-defined]


def bytes_shared(metadata: dcp.Metadata) -> None:
    """One object for several entries."""
    optimizer(metadata)
    entries = metadata.state_dict_metadata
    names = [n for n, entry in entries.items() if isinstance(entry, dcp.BytesStorageMetadata)]
    entries[names[-1]] = entries[names[-5]]


@pytest.mark.parametrize("window_bytes", WINDOWS)
@pytest.mark.parametrize(
    "change",
    [two_bytes_places, bytes_place_of_nothing, bytes_place_with_offset, bytes_with_state]
    + [bytes_shared],
)
def test_odd_bytes_entries_are_the_same_or_left_to_the_slow_way(
    change: Callable[[dcp.Metadata], None], window_bytes: int, made: Path, tmp_path: Path
) -> None:
    data = saved(tmp_path, change, made)
    try:
        found = in_bulk(data, tmp_path, window_bytes)
    except Exception:
        return
    assert_equal(found, one_by_one(data))


def chunk_twice(metadata: dcp.Metadata) -> None:
    chunks = metadata.state_dict_metadata["model.embed.weight"].chunks
    chunks[-1] = chunks[-2]


def chunk_twice_anew(metadata: dcp.Metadata) -> None:
    chunks = metadata.state_dict_metadata["model.embed.weight"].chunks
    chunks[-1] = pickle.loads(pickle.dumps(chunks[-2]))


def negative(metadata: dcp.Metadata) -> None:
    list(metadata.storage_data.values())[-5].offset = -1


def absurd(metadata: dcp.Metadata) -> None:
    list(metadata.storage_data.values())[-5].offset = 1 << 62


def other_dims(metadata: dcp.Metadata) -> None:
    metadata.state_dict_metadata["model.embed.weight"].chunks[-1].sizes = torch.Size([4, 40, 1])


def transformed(metadata: dcp.Metadata) -> None:
    list(metadata.storage_data.values())[-5].transform_descriptors = ["stream.zstd/1"]


def another_name(metadata: dcp.Metadata) -> None:
    object.__setattr__(list(metadata.storage_data)[-7], "fqn", "model.nobody.weight")


def a_chunk_elsewhere(metadata: dcp.Metadata) -> None:
    """An object of a record is referred to from outside of it."""
    metadata.extra = metadata.state_dict_metadata["model.conv.weight"].chunks[-2]


def an_offset_elsewhere(metadata: dcp.Metadata) -> None:
    metadata.extra = [metadata.state_dict_metadata["model.conv.weight"].chunks[-2].offsets]


@pytest.mark.parametrize("window_bytes", WINDOWS)
@pytest.mark.parametrize(
    "change",
    [
        chunk_unstored,
        place_without_chunk,
        wrong_hint,
        no_hint,
        chunk_twice,
        chunk_twice_anew,
        negative,
        absurd,
        other_dims,
        transformed,
        another_name,
        a_chunk_elsewhere,
        an_offset_elsewhere,
    ],
)
def test_what_is_odd_is_left_to_the_slow_way(
    change: Callable[[dcp.Metadata], None], window_bytes: int, made: Path, tmp_path: Path
) -> None:
    data = saved(tmp_path, change, made)
    one_by_one(data)
    with pytest.raises(NotSplicedError):
        in_bulk(data, tmp_path, window_bytes)


def test_what_is_referred_to_must_have_been_there(data: bytes, tmp_path: Path) -> None:
    """A place's path, by the number of one that only a later rank has."""
    opcodes = unframed(data)
    paths = list(re.finditer(rb"\}\x94\(j.{4}(j.{4})j.{4}[KMJ]", opcodes, re.DOTALL))
    first, last = paths[0], paths[-1]
    assert first[1] != last[1]
    edited = opcodes[: first.start(1)] + last[1] + opcodes[first.end(1) :]
    with pytest.raises(GateError):
        one_by_one(framed(edited))
    with pytest.raises(NotSplicedError):
        in_bulk(framed(edited), tmp_path)
    # The other way round it is another file, of the same form.
    edited = opcodes[: last.start(1)] + first[1] + opcodes[last.end(1) :]
    assert_no_other(framed(edited), tmp_path)


@pytest.fixture
def bounded() -> Iterator[None]:
    """As little room as the child has: a mutated number may ask for a terabyte."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(
        resource.RLIMIT_AS, (pages * os.sysconf("SC_PAGESIZE") + (1 << 30), before[1])
    )
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def assert_no_other(data: bytes, folder: Path) -> bool:
    """Whether it is read in bulk; if it is, it must be what is read one by one."""
    try:
        found = in_bulk(data, folder)
    except Exception:
        return False
    assert_equal(found, one_by_one(data))
    return True


def edits(opcodes: bytes) -> dict[str, tuple[int, bytes]]:
    """Where opcodes may be put in so that they touch what a batch leaves behind."""
    chunks_end = opcodes.index(b"ube") + 2
    places_end = opcodes.rindex(b"ubu") + 2
    begin = opcodes.index(b"(", opcodes.index(b"ube") + 3)
    return {
        "pop the last chunk": (chunks_end, b"0"),
        "double the last chunk": (chunks_end, b"2"),
        "a tuple of the last two": (chunks_end, b"\x86"),
        "append instead": (chunks_end, b"a"),
        "pop the last place": (places_end, b"00"),
        "a string over the batch": (begin, b"\x8c\x05"),
        "a long string over the batch": (begin, b"B\x40\x00\x00\x00"),
        "a mark more": (begin, b"("),
        "a frame in it": (begin + 30, b"\x95" + bytes(8)),
        "one memo entry more": (chunks_end + 1, b"\x94"),
        "the memo from elsewhere": (chunks_end + 1, b"q\x05"),
        "the class put elsewhere": (begin, b"N\x940"),
        "an object of the batch, dropped": (chunks_end + 1, b"j\x5e\x00\x00\x000"),
        "an object of the batch, kept": (chunks_end + 1, b"j\x5e\x00\x00\x00a"),
        "stop": (places_end + 1, b"."),
    }


@pytest.mark.parametrize("name", edits(b"ube((ubu"))
def test_opcodes_around_a_batch_are_not_mistaken(name: str, data: bytes, tmp_path: Path) -> None:
    opcodes = unframed(data)
    at, text = edits(opcodes)[name]
    assert_no_other(framed(opcodes[:at] + text + opcodes[at:]), tmp_path)


def test_records_within_a_string_are_no_records(data: bytes, tmp_path: Path) -> None:
    opcodes = unframed(data)
    begin = opcodes.index(b"(", opcodes.index(b"ube") + 3)
    batch = opcodes[begin : opcodes.index(b"ube", begin) + 3]
    text = b"B" + len(batch).to_bytes(4, "little") + batch + b"0"
    edited = framed(opcodes[:begin] + text + opcodes[begin:])
    assert one_by_one(edited)[0] == one_by_one(data)[0]
    assert not assert_no_other(edited, tmp_path)


def test_a_frame_that_ends_within_an_opcode_is_seen(data: bytes, tmp_path: Path) -> None:
    opcodes = unframed(data)
    between = positions(opcodes)
    middle = [at for at in range(1, len(opcodes)) if at not in between]
    for at in sampled(middle, 300):
        assert not assert_no_other(framed(opcodes, at), tmp_path)


def run_borders(opcodes: bytes) -> list[int]:
    """Where runs of each kind of record begin, go on and end."""
    found = []
    for name in (b"state_dict_metadata", b"planner_data", b"storage_data"):
        begin = opcodes.index(name)
        names = [
            m.start()
            for m in re.finditer(rb"\x8c.(?:optim\.)?model\.(?:norm|conv)\.weight", opcodes)
        ]
        found += [at for at in names if at > begin][:3]
    ends = (
        b")\x81\x94\x8c",
        b"\x86\x94\x8c",
        b"ubj",
        b"ubh",
        b"ube",
        b"ubu",
        b"eub",
        b"\x94b",
        b"\x86\x94u(u",
    )
    for text in ends:
        found += [at + len(text) - 1 for at in (opcodes.find(text), opcodes.rfind(text)) if at > 0]
    return sorted({*found})


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [b"0", b"00", b"1", b"2", b"20", b"20s", b"N0s", b"N0a", b"s", b"ss", b"a", b"u", b"u(", b"e"]
    + [b"e(", b"(u", b"(e", b"(0", b"(1", b"t", b"d", b"l", b"b", b"R", b"N", b"NN", b"NNs", b"Nb"]
    + [b"\x85", b"\x86", b"\x87", b"\x94", b"\x81", b"h\x00", b"h\x00h\x00", b"q\x05", b"."]
    + [b"\x8c\x00\x8c\x00", b"\x8c\x05", b"(t", b"(t0", b"h\x04b", b"}}", b"})"],
)
@pytest.mark.parametrize("change", [None, optimizer])
def test_no_opcode_between_records_is_mistaken(
    change: Callable[[dcp.Metadata], None] | None,
    text: bytes,
    made: Path,
    data: bytes,
    tmp_path: Path,
) -> None:
    """The stack, its marks and the memo: each may be changed between any two records."""
    opcodes = unframed(saved(tmp_path, change, made) if change else data)
    borders = run_borders(opcodes)
    assert len(borders) > 15
    for at in borders:
        assert_no_other(framed(opcodes[:at] + text + opcodes[at:]), tmp_path)
    for at in borders:
        assert_no_other(framed(opcodes[:at] + text + opcodes[at + len(text) :]), tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("bounded")
@pytest.mark.skipif(sys.platform != "linux", reason="only there memory can be bounded so")
@pytest.mark.parametrize("seed", range(7))
@pytest.mark.parametrize("change", [None, optimizer])
def test_mutations_are_never_read_as_something_else(
    change: Callable[[dcp.Metadata], None] | None,
    seed: int,
    made: Path,
    data: bytes,
    tmp_path: Path,
) -> None:
    chance = random.Random(seed)  # noqa: S311
    data = saved(tmp_path, change, made) if change else data
    num_read = 0
    for _ in range(1500):
        opcodes = bytearray(unframed(data))
        for _ in range(chance.choice([1, 1, 1, 2, 4])):
            at = chance.randrange(len(opcodes) - 8)
            kind = chance.randrange(4)
            if kind == 0:
                opcodes[at] ^= 1 << chance.randrange(8)
            elif kind == 1:
                opcodes[at] = chance.choice(b"()0129abehjqrstuKMJNR\x81\x85\x86\x8c\x94\x95.")
            elif kind == 2:
                del opcodes[at : at + chance.randrange(1, 9)]
            else:
                other = chance.randrange(len(opcodes) - 90)
                opcodes[at:at] = opcodes[other : other + chance.randrange(1, 90)]
        num_read += assert_no_other(framed(bytes(opcodes)), tmp_path)
    assert num_read > 20, "mutations of sizes and lengths leave what can be read in bulk"


@pytest.mark.slow
def test_a_large_file_is_read_in_bulk_by_the_child_and_runs_nothing(tmp_path: Path) -> None:
    folder, marker = tmp_path / "large", tmp_path / "ran"
    tensors: list[Wanted] = [(f"layers.{i}.weight", (512, 8), torch.float32) for i in range(64)]
    metadata = make(folder, tensors, 512)
    told: list[int] = []

    def progress(num_done: int, num_bytes: int) -> bool:
        told.append(num_done)
        return False

    first = open_checkpoint(str(folder), progress=progress)
    assert first.metadata_bytes > 4 << 20
    assert max(told) > 0
    data = (folder / ".metadata").read_bytes()
    expected = one_by_one(data)
    assert first.columns.fqns == expected[0]["tensors"]
    assert np.array_equal(first.columns.byte_offset, np.asarray(expected[1]["byte_offset"]))
    metadata.storage_data = pickle.loads(data).storage_data
    metadata.extra = Runs(marker)  # type: ignore[attr-defined]
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    second = open_checkpoint(str(folder))
    assert second.unsafe_globals == (f"{os.name}.system",)
    assert np.array_equal(second.columns.offsets, first.columns.offsets)
    assert not marker.exists()


def test_the_generator_writes_what_dcp_save_writes(tmp_path: Path) -> None:
    """Opcode by opcode, but for numbers and texts, as the ranks of a sample wrote it."""
    sample = SAMPLES / "fsdp_4"
    theirs = pickle.loads((sample / ".metadata").read_bytes())
    tensors: list[Wanted] = [
        (fqn, tuple(entry.size), entry.properties.dtype)
        for fqn, entry in theirs.state_dict_metadata.items()
    ]
    make(tmp_path, tensors, 4)
    ours = pickle.loads((tmp_path / ".metadata").read_bytes())
    assert ours.state_dict_metadata.keys() == theirs.state_dict_metadata.keys()
    assert {*ours.storage_data} == {*theirs.storage_data}
    assert {(i.fqn, i.offset): s.length for i, s in ours.storage_data.items()} == {
        (i.fqn, i.offset): s.length for i, s in theirs.storage_data.items()
    }

    def shape(folder: Path) -> list[str]:
        text = unframed((folder / ".metadata").read_bytes())
        begin = text.index(b"storage_data")
        names = [op.name for op, _, at in pickletools.genops(framed(text)) if at - 11 > begin]
        return [name for name in names if name not in ("FRAME", "BININT", "BININT1", "BININT2")]

    assert shape(tmp_path)[:500] == shape(sample)[:500]
