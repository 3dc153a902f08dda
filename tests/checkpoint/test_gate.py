"""The pickle gate: what it reads, what it refuses, and that nothing is ever run."""

from __future__ import annotations

import pickle
import pickletools
import shutil
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inspector.checkpoint import open_checkpoint
from inspector.errors import MetadataError
from tests.checkpoint.hostile import BOMBS, Runs
from tests.conftest import SAMPLES, run_cli, run_python


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of a sample, to be spoiled."""
    return Path(shutil.copytree(SAMPLES / "hsdp_2x2", tmp_path / "ckpt"))


def torch_load(folder: Path) -> Any:
    from torch.distributed.checkpoint import FileSystemReader

    return FileSystemReader(folder).read_metadata()


def rewrite(folder: Path, metadata: Any, protocol: int = 4) -> None:
    (folder / ".metadata").write_bytes(pickle.dumps(metadata, protocol))


def facts(folder: Path) -> Any:
    checkpoint = open_checkpoint(str(folder))
    return [
        (t.fqn, t.dtype, t.shape, t.offsets.tolist(), t.sizes.tolist(), t.byte_offset.tolist())
        for t in checkpoint.tensors
    ], [(e.fqn, e.byte_offset, e.byte_length) for e in checkpoint.bytes_entries]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("sample", ["hsdp_2x2", "fsdp2_adamw_4", "names_hostile_1"])
def test_every_pickle_protocol_reads_the_same(sample: str, protocol: int, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(SAMPLES / sample, tmp_path / "ckpt"))
    expected = facts(folder)
    rewrite(folder, torch_load(folder), protocol)
    start = (folder / ".metadata").read_bytes()[:2]
    assert (start == bytes([0x80, protocol])) == (protocol >= 2)
    if sample == "names_hostile_1" and protocol == 0:
        return  # Protocol 0 cannot hold every name (lone surrogates); torch itself fails on it.
    assert facts(folder) == expected
    checkpoint = open_checkpoint(str(folder))
    assert checkpoint.unknown_globals == checkpoint.unsafe_globals == checkpoint.malformed == ()


def test_enum_members_as_python_3_11_pickles_them(copy: Path) -> None:
    """Early 3.11 wrote `getattr(Enum, "NAME")`; 3.12 and later 3.11 write `Enum(value)`."""
    from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING

    metadata = torch_load(copy)
    old = _MEM_FORMAT_ENCODING.__reduce_ex__
    _MEM_FORMAT_ENCODING.__reduce_ex__ = lambda self, protocol: (  # type: ignore[method-assign]
        getattr,
        (type(self), self.name),
    )
    try:
        rewrite(copy, metadata)
    finally:
        _MEM_FORMAT_ENCODING.__reduce_ex__ = old  # type: ignore[method-assign]
    opcodes = list(pickletools.genops((copy / ".metadata").read_bytes()))
    assert "getattr" in [arg for _, arg, _ in opcodes]
    checkpoint = open_checkpoint(str(copy))
    assert checkpoint.unsafe_globals == ()
    assert {tensor.memory_format for tensor in checkpoint.tensors} == {"contiguous"}


def fake_module(name: str, **members: Any) -> Callable[[], None]:
    """Put a module where pickle finds it; returns what takes it away again."""
    made = []
    parts = name.split(".")
    for i in range(1, len(parts) + 1):
        path = ".".join(parts[:i])
        if path not in sys.modules:
            sys.modules[path] = types.ModuleType(path)
            made.append(path)
    for key, value in members.items():
        value.__module__ = name
        value.__qualname__ = key
        setattr(sys.modules[name], key, value)

    def undo() -> None:
        for path in made:
            del sys.modules[path]

    return undo


def test_megatron_and_olmo_write_classes_of_their_own(copy: Path) -> None:
    from torch.distributed.checkpoint import filesystem, metadata, planner

    plain = torch_load(copy)
    expected = facts(copy)
    mcore = type("MCoreMetadata", (metadata.Metadata,), {})
    info = type("_StorageInfo", (filesystem._StorageInfo,), {})
    undo = fake_module("megatron.core.dist_checkpointing.strategies.torch", MCoreMetadata=mcore)
    undo_olmo = fake_module("olmo_core.distributed.checkpoint.filesystem", _StorageInfo=info)
    try:
        rewritten = mcore.__new__(mcore)
        rewritten.__dict__.update(plain.__dict__)
        rewritten.mcore_data = {"model.w": {"nd_reformulated_orig_global_shape": (1, 2)}}
        rewritten.all_local_plans = [planner.SavePlan([])]
        rewritten.storage_data = {
            index: info(old.relative_path, old.offset, old.length)
            for index, old in plain.storage_data.items()
        }
        rewrite(copy, rewritten)
    finally:
        undo()
        undo_olmo()
    assert facts(copy) == expected
    checkpoint = open_checkpoint(str(copy))
    assert checkpoint.unknown_globals == checkpoint.unsafe_globals == ()
    notes = " ".join(checkpoint.provenance.notes)
    assert "MCoreMetadata of megatron.core" in notes
    assert "_StorageInfo of olmo_core" in notes
    assert "mcore_data" in notes


def test_a_class_that_is_not_known_is_kept_inert_and_named(copy: Path) -> None:
    made = []

    class Fancy:
        def __new__(cls, *args: Any) -> Any:
            made.append(args)
            return object.__new__(cls)

    undo = fake_module("somebodys.package", Fancy=Fancy)
    try:
        metadata = torch_load(copy)
        metadata.fancy = Fancy()
        rewrite(copy, metadata)
        made.clear()
        expected = facts(copy)
        checkpoint = open_checkpoint(str(copy))
    finally:
        undo()
    assert not made
    assert checkpoint.unknown_globals == ("somebodys.package.Fancy",)
    assert checkpoint.unsafe_globals == ()
    assert len(expected[0]) == 6


@pytest.mark.parametrize("where", ["root", "beside", "in a name", "in a chunk"])
def test_a_callable_is_named_and_never_called(copy: Path, tmp_path: Path, where: str) -> None:
    marker = tmp_path / "ran"
    metadata = torch_load(copy)
    if where == "root":
        metadata = Runs(marker)
    elif where == "beside":
        metadata.extra = Runs(marker)
    elif where == "in a name":
        metadata.state_dict_metadata[Runs(marker)] = None
    else:
        first = next(iter(metadata.state_dict_metadata.values()))
        first.chunks.append(Runs(marker))
    rewrite(copy, metadata)
    for command in (["show", copy], ["show", copy, "--json", "--chunks"]):
        ran = run_cli(*command)
        assert "Traceback" not in ran.err
        assert ran.code == (2 if where == "root" else 0)
        assert "system" in ran.out + ran.err
    assert not marker.exists()
    # The same file does run its command when pickle loads it: the trap is a real one.
    pickle.loads((copy / ".metadata").read_bytes())
    assert marker.exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_ends_in_one_line_soon_and_with_bounded_memory(name: str, tmp_path: Path) -> None:
    (tmp_path / ".metadata").write_bytes(BOMBS[name])
    script = (
        "import resource, subprocess, sys\n"
        "command = [sys.executable, '-m', 'inspector', 'show', sys.argv[1]]\n"
        "code = subprocess.run(command).returncode\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
        "sys.exit(code)"
    )
    ran = run_python(
        "-c",
        script,
        str(tmp_path),
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
        timeout_s=300,
    )
    assert ran.code == 2, ran.err
    lines = ran.err.strip().splitlines()
    assert len(lines) <= 2, ran.err
    assert lines[0].startswith("hsdp-inspect: ")
    assert ".metadata" in lines[0]
    assert int(ran.out.split()[-1]) < 1_000_000, "kilobytes of the largest process"


def test_numbers_that_cannot_be_meant_are_left_out_and_named(copy: Path) -> None:
    metadata = torch_load(copy)
    names = list(metadata.state_dict_metadata)
    entries = metadata.state_dict_metadata

    entries[names[0]].size = (-8, 5)
    entries[names[1]].chunks[0].sizes = ("a", 1)
    entries[names[2]].size = (1 << 40, 1 << 40)
    entries[names[3]].chunks[0].offsets = (0, 0, 0)
    index = next(i for i in metadata.storage_data if i.fqn == names[4])
    metadata.storage_data[index].offset = -1
    entries[names[5]].properties = None
    entries["a dict"] = {"x": 1}
    entries[7] = entries[names[4]]
    rewrite(copy, metadata)
    checkpoint = open_checkpoint(str(copy))
    complaints: dict[str, str] = {m.fqn: m.what for m in checkpoint.malformed}
    assert "negative" in complaints[names[0]]
    assert "not an integer" in complaints[names[1]] or "dims" in complaints[names[1]]
    assert "absurd" in complaints[names[2]]
    assert "dims" in complaints[names[3]]
    assert "negative" in complaints[names[4]]
    assert "properties" in complaints[names[5]]
    assert "neither tensor nor bytes" in complaints["a dict"]
    kept = {tensor.fqn for tensor in checkpoint.tensors}
    assert names[0] not in kept and names[2] not in kept
    assert {names[1], names[3], names[4], names[5], "7"} <= kept
    fifth = next(t for t in checkpoint.tensors if t.fqn == names[4])
    assert (fifth.file == -1).sum() == 1


def test_the_reader_can_be_cancelled(copy: Path) -> None:
    from inspector.errors import Cancelled

    with pytest.raises(Cancelled):
        open_checkpoint(str(copy), progress=lambda done, total: True)


def test_a_metadata_file_that_is_truncated_anywhere_says_so(copy: Path) -> None:
    data = (copy / ".metadata").read_bytes()
    for size in [1, 2, 10, 100, len(data) // 2, len(data) - 1]:
        (copy / ".metadata").write_bytes(data[:size])
        with pytest.raises(MetadataError) as caught:
            open_checkpoint(str(copy))
        assert caught.value.code == "metadata-truncated", (size, caught.value.message)


def test_bytes_after_the_pickle_are_counted(copy: Path) -> None:
    with (copy / ".metadata").open("ab") as file:
        file.write(b"rubbish")
    assert open_checkpoint(str(copy)).trailing_bytes == 7


def test_a_class_that_is_called_without_its_arguments(copy: Path) -> None:
    """Torch's own are never written so, and most of its classes then raise an error."""
    path = copy / ".metadata"
    data = path.read_bytes()
    made = [at for at in range(len(data)) if data.startswith(b")\x81\x94", at)]
    told = set()
    for at in [made[0], *made[1::7], made[-1]]:
        path.write_bytes(data[: at + 1] + b"R" + data[at + 2 :])
        try:
            torch_load(copy)
        except TypeError:
            told.add("raises")
            with pytest.raises(MetadataError):
                facts(copy)
        else:
            told.add("loads")
            facts(copy)
    assert told == {"raises", "loads"}


@pytest.mark.parametrize("protocol", [0, 1, 2, 4])
@pytest.mark.parametrize("kind", ["<i8", ">i4", "u1", bool])
def test_numbers_of_other_kinds_are_numbers(kind: Any, protocol: int, tmp_path: Path) -> None:
    """As torch takes them: offsets worked out by numpy, and bools, which `torch.Size` turns."""
    import numpy as np

    folder = Path(shutil.copytree(SAMPLES / "hsdp_2x2", tmp_path / "ckpt"))
    expected = facts(folder)
    metadata = torch_load(folder)
    make = bool if kind is bool else np.dtype(kind).type
    if kind == ">i4":
        make = lambda v: np.array([v], ">i4")[0]  # noqa: E731

    def turned(size: Any) -> Any:
        size = tuple(size)
        return _Sized(tuple(make(v) if kind is not bool or v in (0, 1) else v for v in size))

    for entry in metadata.state_dict_metadata.values():
        for chunk in entry.chunks:
            chunk.offsets, chunk.sizes = turned(chunk.offsets), turned(chunk.sizes)
    rewrite(folder, metadata, protocol)
    theirs = torch_load(folder).state_dict_metadata["model.net1.weight"].chunks
    assert list(theirs[1].offsets) == facts(folder)[0][0][3][1]
    assert facts(folder) == expected
    assert open_checkpoint(str(folder)).malformed == ()


class _Sized:
    """Pickled as `torch.Size` of these very objects."""

    def __init__(self, values: tuple[Any, ...]) -> None:
        self.values = values

    def __reduce__(self) -> Any:
        import torch

        return torch.Size, (self.values,)


class _Chunk:
    """Pickled as a `ChunkStorageMetadata`, which is no key: a dataclass that is not frozen."""

    def __reduce__(self) -> Any:
        import torch
        from torch.distributed.checkpoint.metadata import ChunkStorageMetadata

        return ChunkStorageMetadata, (torch.Size([0]), torch.Size([1]))


def test_a_key_that_torch_cannot_hash_is_no_key(copy: Path) -> None:
    metadata = torch_load(copy)
    metadata.planner_data = {_Chunk(): 1}
    rewrite(copy, metadata)
    with pytest.raises(TypeError, match="unhashable type: 'ChunkStorageMetadata'"):
        torch_load(copy)
    with pytest.raises(MetadataError, match="unhashable type"):
        open_checkpoint(str(copy))
