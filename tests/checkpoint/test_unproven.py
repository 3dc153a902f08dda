"""What a pickle with a right checksum may still ask for: refused or told, never taken for sound.

Each is also given to who would read it: CPython's unpickler, torch.load, or torch's metadata
reader; what those refuse, a payload or metadata without a finding must not hold.
"""

from __future__ import annotations

import io
import pickle
import random
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from inspector.checkpoint.payload.payload import open_payload
from inspector.checkpoint.payload.scan.feed import PickleError
from inspector.checkpoint.payload.scan.scan import scan
from inspector.checkpoint.payload.source import BytesSource, PayloadError
from inspector.checkpoint.pickle.frames import Framed, StraddledError
from inspector.checks.judge import check
from inspector.checks.payload.judge import judge
from inspector.checks.payload.judgement import Subject
from sample_ckpts.maker.editing import saved
from tests.checkpoint.test_payload_pickle import HARMLESS
from tests.conftest import SAMPLES
from tests.helpers.fuzz.mutations import change_inner_pickle

#: What no unpickler makes a value of.
IMPOSSIBLE = {
    "an item for a number": b"\x80\x02K\x01K\x02a.",
    "items for a text": b"\x80\x02X\x01\x00\x00\x00x(K\x02e.",
    "items for a dict": b"\x80\x02}(K\x02e.",
    "an entry of a number": b"\x80\x02K\x01K\x02K\x03s.",
    "an entry of a tuple": b"\x80\x02K\x01\x85K\x02K\x03s.",
    "an entry of a list from the memo": b"\x80\x02(K\x01tq\x00h\x00K\x02K\x03s.",
    "a key without a value": b"\x80\x02}(K\x01u.",
    "a list as a key": b"\x80\x02}]K\x01s.",
    "a dict in a tuple as a key": b"\x80\x02}}\x85K\x01s.",
    "a list in a set": b"\x80\x04\x8f(]\x90.",
    "a list in a frozen set": b"\x80\x04(]\x91.",
    "an item for a list as for a set": b"\x80\x04](K\x01\x90.",
    "a state for a number": b"\x80\x02K\x01}b.",
    "a state for a list": b"\x80\x02]}b.",
    "a state that is no dict": b"\x80\x02ccollections\nOrderedDict\n)RK\x01b.",
    "arguments that are no tuple": b"\x80\x02ccollections\nOrderedDict\n]R.",
    "keywords that are no dict": b"\x80\x04ccollections\nOrderedDict\n)]\x92.",
    "an object of a function": b"\x80\x02c_codecs\nencode\n)\x81.",
    "a text encoded as it cannot be": b"\x80\x02c_codecs\nencode\nX\x03\x00\x00\x00\xe2\x82\xac"
    b"X\x06\x00\x00\x00latin1\x86R.",
    "a number encoded": b"\x80\x02c_codecs\nencode\nK\x01X\x06\x00\x00\x00latin1\x86R.",
    "an unknown protocol": b"\x80\x21K\x01.",
    "a number that is too large": b"F1e999\n.",
    "a number that is none": b"F1_0\n.",
    "a text of Python 2 that is no UTF-8": b"\x80\x02U\x01\xe2.",
    "a persistent id that is a text": b"\x80\x02Pabc\n.",
    "a frame past the end": b"\x80\x04\x95" + struct.pack("<Q", 1 << 40) + b"K\x01.",
    "an opcode over the end of its frame": b"\x80\x04\x95" + struct.pack("<Q", 2) + b"M\x01\x02.",
    "a value remembered under an absurd number": b"\x80\x02K\x01r\xff\xff\xff\xff.",
}
#: CPython reads these all the same, from memory or with enough of it.
READ_BY_SOME = {"an opcode over the end of its frame", "a value remembered under an absurd number"}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_what_no_unpickler_reads_is_refused(name: str) -> None:
    data = IMPOSSIBLE[name]
    for keep in (False, True):
        with pytest.raises(PickleError):
            scan(data, keep=keep)
    if name not in READ_BY_SOME:
        with pytest.raises(Exception, match=r".+"):
            pickle.loads(data, encoding="utf-8")


def _text(text: str) -> bytes:
    data = text.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _storage(
    what: str = "storage",
    kind: bytes = b"ctorch\nFloatStorage\n",
    key: str = "0",
    place: str = "cpu",
    size: int = 4,
) -> bytes:
    """Opcodes that name a storage, and throw it away."""
    return b"(" + _text(what) + kind + _text(key) + _text(place) + b"K" + bytes([size]) + b"tQ0"


def test_a_key_whose_hash_never_ends_is_looked_at_once() -> None:
    """A tuple that holds one twice, that holds one twice ...: two to the power of a hundred."""
    doubling = b"\x80\x02)" + b"q\x00h\x00\x86" * 100
    assert scan(doubling + b"}h\x00K\x01s.", keep=True).end == len(doubling) + 7
    with pytest.raises(PickleError, match="as a key"):
        scan(b"\x80\x02]" + b"q\x00h\x00\x86" * 100 + b"}h\x00K\x01s.", keep=True)


#: What a tensor's pickle may not hold beside its tensor, where it is thrown away again.
REFUSED_OF_TENSORS = {
    "a name that torch does not take": b"cbuiltins\ngetattr\n0",
    "a class of a package": b"cnumpy\nndarray\n0",
    "a storage that is none": b"cTorch\nFloatStorage\n0",
    "a name of torch that is none": b"ctorch\nXStorage\n0",
    "a storage by a text": b"X\x03\x00\x00\x00cpuQ0",
    "a storage that is not there": _storage(key="7"),
    "a call without arguments": b"ctorch._utils\n_rebuild_tensor_v2\n)R0",
    "an object of a function": b"ctorch._utils\n_rebuild_tensor_v2\n)\x810",
    "an item for a text": b"X\x01\x00\x00\x00xK\x01a0",
    "an entry of a list": b"]K\x00K\x01s0",
}


@pytest.mark.parametrize("name", REFUSED_OF_TENSORS)
def test_a_tensors_pickle_holds_nothing_that_torch_refuses(name: str) -> None:
    payload = _with(saved(torch.arange(4.0)), REFUSED_OF_TENSORS[name])
    assert _told(payload, is_tensor=True)
    with pytest.raises(Exception, match=r".+"):
        torch.load(io.BytesIO(payload), weights_only=True)


#: The same of a bytes entry: torch unpickles that with everything allowed.
REFUSED_OF_BYTES = {
    "a storage by a number": b"K\x01Q0",
    "another thing than a storage": _storage(what="x"),
    "a storage without a class": _storage(kind=b"K\x01"),
    "a storage of another size": _storage(size=9),
    "a storage on no device": _storage(place="cqu"),
    "a codec that is none": b"c_codecs\nencode\n" + _text("x") + _text("nons") + b"\x86R0",
    "a name of the library that is none": b"ccollections\nOrderedDicx\n0",
    "a device that is none": b"ctorch\ndevice\nX\x03\x00\x00\x00cqu\x85R0",
}


@pytest.mark.parametrize("name", REFUSED_OF_BYTES)
def test_a_bytes_entry_holds_nothing_untold_that_torch_refuses(name: str) -> None:
    payload = _with(saved({"a": torch.arange(4.0)}), REFUSED_OF_BYTES[name])
    told = _told(payload, is_tensor=False)
    assert told
    with pytest.raises(Exception, match=r".+"):
        torch.load(io.BytesIO(payload), weights_only=False)


def test_usual_values_are_proven() -> None:
    """No note for what picklers write, in any protocol; one for a call of another form."""
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        for value in HARMLESS:
            assert scan(pickle.dumps(value, protocol)).unproven == (), value
    odd = b"\x80\x02ccollections\nOrderedDict\n(K\x01K\x02tR."
    assert scan(odd).unproven == ("collections.OrderedDict",)
    found = _told(_with(saved({"a": 1}), odd[2:-1] + b"0"), is_tensor=False)
    assert found == ["payload-unproven"]


@pytest.mark.slow
def test_what_is_told_of_nothing_is_loaded_by_torch() -> None:
    """Thousands of changed pickles whose checksums are right, bytes entries above all.

    Not sets: protocol 2 makes them of a list, whose items are followed only as far as the memo is.
    """
    rng = random.Random(7)  # noqa: S311  (not for secrets)
    values: list[Any] = [
        {"a": [1, 2.5, {"b": (1, "x", None)}], "t": torch.arange(4.0)},
        [b"some bytes", torch.Size([2, 3]), torch.float32],
        torch.nn.Parameter(torch.ones(2, 3)),
    ]
    payloads = [(saved(value), False) for value in values]
    payloads += [(saved(torch.arange(6.0).reshape(2, 3)), True)]
    num_clean = 0
    for _ in range(4000):
        payload, is_tensor = rng.choice(payloads)
        try:
            changed = change_inner_pickle(payload, rng)
        except (ValueError, IndexError):
            continue
        sizes = (2, 3) if is_tensor else None
        if not _told(changed, is_tensor=is_tensor, sizes=sizes):
            num_clean += 1
            torch.load(io.BytesIO(changed), map_location="cpu", weights_only=is_tensor)
    assert num_clean > 100


def _with(payload: bytes, opcodes: bytes) -> bytes:
    """A payload whose pickle does something more at its beginning, its checksum right."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(payload)) as old, zipfile.ZipFile(out, "w") as new:
        for item in old.infolist():
            data = old.read(item)
            if item.filename.endswith("data.pkl"):
                data = data[:2] + opcodes + data[2:]
            new.writestr(item.filename, data)
    return out.getvalue()


def _told(payload: bytes, *, is_tensor: bool, sizes: tuple[int, ...] | None = None) -> list[str]:
    if is_tensor:
        sizes = sizes or (4,)
        subject = Subject("w", "f", 0, 0, "float32", (0,) * len(sizes), sizes)
    else:
        subject = Subject("w", "f", 0)
    result = judge(_InMemory(payload), [subject])  # type: ignore[arg-type]
    return [found.code for found in (*result.findings, *result.notes)]


class _InMemory(BytesSource):
    def __init__(self, data: bytes) -> None:
        super().__init__(memoryview(data))

    def prefetch(self) -> None:
        """It is there."""

    def peek(self, num_bytes: int) -> bytes:
        return self.read(0, min(num_bytes, self.length))


# -- frames, archives, metadata ----------------------------------------------------------------


def test_frames_as_picklers_write_them_are_read() -> None:
    large = [
        {"a": n, "b": "x" * 50, "c": b"y" * 200_000 if n % 500 == 0 else b""} for n in range(1500)
    ]
    for value in (large, [], "y" * 100_000, [b"q" * 70_000, 1], [b"q" * 70_000]):
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            for dumps in (pickle.dumps, pickle._dumps):  # type: ignore[attr-defined]
                data = dumps(value, protocol)
                assert pickle.Unpickler(Framed(io.BytesIO(data))).load() == value
                assert scan(data).end == len(data)


def test_an_opcode_over_the_end_of_its_frame_is_read_in_two_ways_and_refused(
    tmp_path: Path,
) -> None:
    """Metadata into which bytes were put: CPython reads one thing from a file, one from memory."""
    source = (SAMPLES / "fsdp_4" / ".metadata").read_bytes()
    length = int.from_bytes(source[3:11], "little")
    straddled = refused = 0
    for less in range(1, 60):
        data = source[:3] + (length - less).to_bytes(8, "little") + source[11:]
        try:
            pickle.Unpickler(Framed(io.BytesIO(data))).load()
        except StraddledError:
            straddled += 1
            try:
                pickle._loads(data)  # type: ignore[attr-defined]
            except pickle.UnpicklingError:
                refused += 1  # Also by the unpickler that is written in Python.
    assert straddled >= refused > 10
    folder = tmp_path / "ckpt"
    folder.mkdir()
    (folder / ".metadata").write_bytes(data)
    report = check(str(folder))
    assert report.verdict == "unreadable"
    assert "its frame" in report.findings[0].message
    assert "or loads it" in (report.findings[0].torch_does or "")


def test_a_zip64_end_record_that_is_too_short_is_refused() -> None:
    payload = bytearray(saved(torch.ones(2)))
    at = payload.rindex(b"PK\x06\x06")
    payload[at + 4 : at + 12] = (43).to_bytes(8, "little")
    with pytest.raises(PayloadError, match="zip64"):
        open_payload(BytesSource(memoryview(bytes(payload))), is_tensor=True)
    with pytest.raises(RuntimeError, match="invalid header"):
        torch.load(io.BytesIO(bytes(payload)), weights_only=True)


def test_a_record_whose_name_is_no_text_is_refused() -> None:
    """Both names of it, as in a payload that was packed again."""
    payload = saved(torch.ones(2)).replace(b"serialization_id", b"seriali\x83ation_id")
    with pytest.raises(PayloadError, match="no UTF-8"):
        open_payload(BytesSource(memoryview(payload)), is_tensor=True)
    with pytest.raises(UnicodeDecodeError):
        torch.load(io.BytesIO(payload), weights_only=True)


def test_a_folder_in_the_place_of_an_index_is_told(tmp_path: Path) -> None:
    """transformers finds no index there; the headers of the files are read all the same."""
    folder = _copy("hf_dcp_whole_1", tmp_path)
    index = folder / "model.safetensors.index.json"
    index.unlink()
    index.mkdir()
    report = check(str(folder))
    assert report.verdict == "damaged"
    assert [f.code for f in report.findings if f.severity == "error"] == ["entry-malformed"]


def test_a_folder_in_the_place_of_a_file_is_told(tmp_path: Path) -> None:
    """HuggingFaceStorageReader opens every name that ends so, and fails."""
    folder = _copy("hf_dcp_sharded_4", tmp_path)
    file = max(folder.glob("shard-*.safetensors"))
    file.unlink()
    file.mkdir()
    assert "file-unreadable" in {f.code for f in check(str(folder)).findings}
    file.rmdir()
    (folder / "other").mkdir()
    assert "file-unreadable" not in {f.code for f in check(str(folder)).findings}


def test_a_scalars_payload_without_an_offset_is_not_found(tmp_path: Path) -> None:
    """torch looks for the place of a chunk by its offset, `torch.Size([])` for a scalar."""
    folder = _copy("dtypes_4", tmp_path)
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    name = next(
        fqn
        for fqn, entry in metadata.state_dict_metadata.items()
        if getattr(entry, "size", None) == torch.Size([])
    )
    for index in [i for i in metadata.storage_data if i.fqn == name]:
        stored = metadata.storage_data.pop(index)
        metadata.storage_data[type(index)(name, None, index.index)] = stored
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    assert "chunk-unstored" in {f.code for f in check(str(folder)).findings}
    state = {name: torch.zeros((), dtype=metadata.state_dict_metadata[name].properties.dtype)}
    with pytest.raises(BaseException, match=r"KeyError|CheckpointException"):
        torch.distributed.checkpoint.load(state, checkpoint_id=folder, no_dist=True)


def test_what_torch_loads_all_the_same_is_not_said_to_raise(tmp_path: Path) -> None:
    """A length past the end of a zstd frame; a chunk of absurd size, left out here alone."""
    folder = _copy("zstd_2", tmp_path)
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    for stored in metadata.storage_data.values():
        if stored.offset == 0:
            stored.length += 1 << 40
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    found = [f for f in check(str(folder)).findings if f.code == "file-truncated"]
    assert found and all("or loads a compressed payload" in f.torch_does for f in found)

    folder = _copy("hsdp_2x2", tmp_path)
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    name = next(iter(metadata.state_dict_metadata))
    chunk = metadata.state_dict_metadata[name].chunks[0]
    chunk.sizes = torch.Size([(1 << 63) - 1, *chunk.sizes[1:]])
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    (gap,) = [f for f in check(str(folder)).findings if f.code == "chunk-gap"]
    assert gap.torch_does.startswith("depends on what it makes of the chunk")


def test_a_path_of_something_else_than_text_is_refused(tmp_path: Path) -> None:
    folder = _copy("fsdp_4", tmp_path)
    path = folder / ".metadata"
    data = path.read_bytes()
    # Thrown away again, but made: pathlib raises TypeError.
    path.write_bytes(data[:2] + b"cpathlib\nPosixPath\nK\x01\x85\x85R0" + data[2:])
    assert check(str(folder)).verdict == "unreadable"
    with pytest.raises(TypeError):
        pickle.loads(path.read_bytes())


def _copy(sample: str, tmp_path: Path) -> Path:
    folder = tmp_path / sample
    folder.mkdir()
    for path in (SAMPLES / sample).iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder
