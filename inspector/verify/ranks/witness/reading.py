"""torch's own reading of the metadata, in a bounded process, beside ours. Needs torch.

The ranks load from metadata that is rebuilt from our own parse, so that a job runs no pickle. That
proves what the payloads are; whether this torch can read the metadata is another question, and the
first that a user has. Once the gate has found the pickle safe, a fork of rank 0 answers it: it
calls torch's `read_metadata` as `dcp.load` does, and compares what comes out with the checkpoint,
entry by entry and place by place. It also reads the metadata by the plain road (`plain.py`).

The rule this module keeps: torch's unpickler is given what `may_import` lets in and nothing else,
whatever the file has become since the gate read it; and "cannot" is said only where torch itself
said so. What ran out of time or memory, or was not let in, was not tried.
"""

from __future__ import annotations

import builtins
import gc
import importlib.util
import math
import multiprocessing
import os
import pickle
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from enum import EnumMeta
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch.distributed.checkpoint import filesystem
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    MetadataIndex,
    TensorStorageMetadata,
)

from inspector.checkpoint.child.isolated import Limits
from inspector.checkpoint.child.program import bound
from inspector.checkpoint.find.locate import folder_of
from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.pickle.gate import may_import
from inspector.checkpoint.pickle.values import name_of
from inspector.checkpoint.storage.base import Storage
from inspector.checkpoint.text import printable
from inspector.errors import UnreachableError
from inspector.layout.geometry import torch_chunk_bounds
from inspector.layout.mesh import Mesh
from inspector.verify.failures import reason
from inspector.verify.ranks.torch_dcp import HfFolder, make_reader
from inspector.verify.ranks.vitals import die_with_parent, memory
from inspector.verify.ranks.witness.account import EntryAccount, Ours, differences
from inspector.verify.ranks.witness.plain import metadata_files, read_plainly

__all__ = ["Reading", "safetensors_reads", "torch_reads"]

#: torch's records take more than our columns do, and the plain road's come before them.
_TIMES_MEMORY, _TIMES_TIME = 4, 6
_START_S = 30.0
_MAX_TEXT = 600


class _NotLetIn(pickle.UnpicklingError):
    """The pickle names something that torch would import, and that was not let in."""


class _Difference(Exception):
    """torch reads it, and reads something else than we do."""


class Reading:
    """The process that reads: started before there are threads, and told later what to read."""

    def __init__(self, path: str, mesh: str, imports: tuple[str, ...]) -> None:
        kind = "fork" if hasattr(os, "fork") else "spawn"
        context: Any = multiprocessing.get_context(kind)
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_run, args=(theirs, path, mesh, imports), name="torch-reads", daemon=True
        )
        self._deadline = time.monotonic()
        self._error = ""
        try:
            with warnings.catch_warnings():
                # It is a fork of one Python thread; numpy's wait for work and hold nothing.
                warnings.simplefilter("ignore")
                self._process.start()
        except OSError as error:
            self._error = f"there is no process to read it in: {error.strerror}"
        theirs.close()

    def begin(self, checkpoint: Checkpoint, chosen: set[str], left_out: set[str]) -> None:
        """Let it read.

        Args:
            checkpoint: What we read, through the gate.
            chosen: The names that are verified.
            left_out: Those that are not, and are said to be.
        """
        if self._error:
            return
        limits = Limits.of(checkpoint.metadata_bytes)
        self._deadline = time.monotonic() + _START_S + _TIMES_TIME * limits.wall_s
        try:
            self._pipe.send((checkpoint, chosen, left_out))
        except OSError as error:
            self._error = f"it could not be asked: {error}"

    def result(self) -> dict[str, Any]:
        """The fields of the `torch_reads` event. Waits, with an end."""
        told: dict[str, Any] | None = None
        try:
            if not self._error and self._pipe.poll(max(self._deadline - time.monotonic(), 0.0)):
                told = self._pipe.recv()
        except (EOFError, OSError):
            pass  # It ended without a word.
        if self._process.pid is not None:
            if told is None:
                self._process.kill()
            self._process.join(5.0)
        if told is not None:
            return told
        why = self._error or "it was given up: it takes more time or memory than it should"
        return {"ok": False, "tried": False, "torch": torch.__version__, "error": why}


def _run(pipe: Connection, path: str, mesh: str, imports: tuple[str, ...]) -> None:
    """The process: waits to be told, reads, answers, ends."""
    die_with_parent()
    try:
        checkpoint, chosen, left_out = pipe.recv()
    except (EOFError, OSError):
        os._exit(0)
    try:
        _bound(checkpoint.metadata_bytes)
        gc.disable()
        told: dict[str, Any] = {}
        if checkpoint.format == "dcp":
            told = torch_reads(checkpoint, path, Mesh.parse(mesh), imports)
        told |= _plainly(checkpoint, path, chosen, left_out)
    except BaseException as error:
        told = {"ok": False, "tried": False, "error": _short(error)}
    pipe.send({"torch": torch.__version__, **told})
    pipe.close()
    os._exit(0)


def _bound(metadata_bytes: int) -> None:
    """Bound this process, beyond what it holds already."""
    try:
        import resource
    except ImportError:
        return
    limits = Limits.of(metadata_bytes)
    held = 0
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            held = int(file.read().split()[0]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        held = memory().get("rss_bytes", 0)
    bound(
        {
            "RLIMIT_AS": held + _TIMES_MEMORY * limits.memory_bytes if held else None,
            "RLIMIT_CPU": int(_TIMES_TIME * limits.cpu_s),
            "RLIMIT_CORE": 0,
        }
    )


def _plainly(
    checkpoint: Checkpoint, path: str, chosen: set[str], left_out: set[str]
) -> dict[str, Any]:
    try:
        read = read_plainly(checkpoint, folder_of(path))
    except Exception as error:
        return {"second_reading": f"the metadata could not be read a second time: {_short(error)}"}
    forgotten = read.forgotten(chosen, left_out)
    return {
        "second_reading": read.difference[:_MAX_TEXT],
        "num_payloads": read.payloads_of(chosen),
        "num_forgotten": len(forgotten),
        "forgotten": [printable(fqn, 120) for fqn in forgotten[:5]],
    }


def torch_reads(
    checkpoint: Checkpoint, path: str, mesh: Mesh, imports: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Whether this torch reads a DCP checkpoint's metadata, and as we do.

    Returns:
        `ok`; `tried`, which is false if torch did not come to a word of its own; `error`, the
        first thing that is wrong.
    """
    if checkpoint.unsafe_globals:
        named = ", ".join(printable(name, 60) for name in checkpoint.unsafe_globals[:3])
        what = f"its pickle names code to be run ({named}), so torch was not let near it"
        return {"ok": False, "tried": False, "unsafe": True, "error": what}
    try:
        _read_dcp(checkpoint, folder_of(path), path, mesh, imports)
    except _NotLetIn as error:
        return {"ok": False, "tried": False, "error": str(error)}
    except MemoryError:
        return {"ok": False, "tried": False, "error": "it asks for more memory than it should"}
    except UnreachableError as error:
        return {"ok": False, "tried": False, "error": error.message[:_MAX_TEXT]}
    except Exception as error:
        text = str(error) if isinstance(error, _Difference) else _short(error)
        return {"ok": False, "tried": True, "error": text[:_MAX_TEXT]}
    return {"ok": True, "tried": True, "error": None}


def safetensors_reads(checkpoint: Checkpoint, hf: HfFolder, error: str) -> dict[str, Any]:
    """The same for safetensors, whose headers the ranks load from as torch has read them.

    Args:
        checkpoint: The checkpoint as we read it.
        hf: The folder as torch read it.
        error: What torch raised instead; empty if nothing.
    """
    if hf.metadata is None:
        return {"ok": False, "tried": True, "error": (error or "it says nothing")[:_MAX_TEXT]}
    names, entry_of = _seen(hf.metadata, hf.path)
    ours = Ours(checkpoint, has_bytes=False)
    # What else lies in the folder torch reads as well; nobody loads it.
    for wrong in differences(ours, names & ours.names, entry_of):
        what = f"HuggingFaceStorageReader reads the headers otherwise: {wrong}"
        return {"ok": False, "tried": True, "error": what[:_MAX_TEXT]}
    return {"ok": True, "tried": True, "error": None}


def _read_dcp(
    checkpoint: Checkpoint, storage: Storage, path: str, mesh: Mesh, imports: tuple[str, ...]
) -> None:
    """Have torch read every metadata file, and compare.

    Raises:
        Exception: What torch raises, or `_Difference`.
    """
    _guard(imports)
    ours = Ours(checkpoint)
    files = metadata_files(storage)
    reader: Any = make_reader(path, None, storage)
    if [rank for _, rank in files] == [None]:
        for wrong in differences(ours, *_seen(reader.read_metadata())):
            raise _Difference(f"torch reads its metadata otherwise: {wrong}")
        return
    held: dict[int, Any] = {}
    for _, rank in files:
        assert rank is not None  # noqa: S101 - they are per rank
        held[rank] = reader.read_metadata(rank=rank)
        for wrong in differences(ours, *_seen(held[rank]), rank=rank):
            raise _Difference(f"torch reads rank {rank}'s metadata otherwise: {wrong}")
    for wrong in _lacking(checkpoint, held, mesh):
        raise _Difference(wrong)


def _lacking(checkpoint: Checkpoint, held: dict[int, Any], mesh: Mesh) -> Iterator[str]:
    """What a rank of a mesh needs and its own metadata lacks: `dcp.load` gives it nothing else."""
    missing = [rank for rank in range(mesh.world_size) if rank not in held]
    if missing:
        yield (
            f"rank {missing[0]} would look for __{missing[0]}.metadata, which is not there: "
            f"metadata of each rank loads with the {len(held)} ranks that wrote it alone"
        )
        return
    for rank in range(mesh.world_size):
        entries = held[rank].state_dict_metadata
        shard = mesh.coordinate(rank)[-1]
        for i, fqn in enumerate(checkpoint.columns.fqns):
            shape = checkpoint.columns.shape(i)
            low, size = 0, 1
            if shape:
                starts, lengths = torch_chunk_bounds(shape[0], mesh.num_shards)
                low, size = int(starts[shard]), int(lengths[shard])
            needed = size * math.prod(shape[1:])
            if not needed:
                continue
            chunks = getattr(entries.get(fqn), "chunks", ())
            has = sum(_common(chunk, low, size) for chunk in chunks)
            if has < needed:
                yield (
                    f"under {mesh} rank {rank} needs {needed:,} elements of {printable(fqn, 120)}, "
                    f"and its own metadata has {has:,}: dcp.load would leave the rest as it was"
                )
                return


def _common(chunk: Any, low: int, size: int) -> int:
    """Elements of a chunk that lie in some rows."""
    sizes = list(chunk.sizes)
    if not sizes:
        return 1
    first, last = max(chunk.offsets[0], low), min(chunk.offsets[0] + sizes[0], low + size)
    return int(max(0, last - first) * math.prod(sizes[1:]))


def _seen(metadata: Any, folder: str = "") -> tuple[set[str], Callable[[str], EntryAccount]]:
    """The names in what torch read, and what it says of each, looked up as `dcp.load` does.

    Args:
        metadata: What torch read.
        folder: Of safetensors, where they lie: torch keeps whole paths, and no bytes.
    """
    keys = {name_of(key): key for key in metadata.state_dict_metadata}
    storage = metadata.storage_data

    def place(index: Any) -> Any:
        info = storage.get(index)
        if info is None:
            return None
        if folder:
            return os.path.relpath(info.relative_path, folder), -1, -1, ()
        transforms = tuple(getattr(info, "transform_descriptors", None) or ())
        return str(info.relative_path), info.offset, info.length, transforms

    def entry_of(fqn: str) -> EntryAccount:
        key = keys[fqn]
        value = metadata.state_dict_metadata[key]
        if isinstance(value, BytesStorageMetadata):
            return EntryAccount(None, "", (((), (), place(MetadataIndex(key))),))
        if not isinstance(value, TensorStorageMetadata):
            raise _Difference(
                f"{printable(fqn, 120)}: torch makes a {type(value).__module__}."
                f"{type(value).__qualname__} of it, which its planner does not take"
            )
        chunks = tuple(
            (tuple(c.offsets), tuple(c.sizes), place(MetadataIndex(key, torch.Size(c.offsets))))
            for c in value.chunks
        )
        dtype = str(value.properties.dtype).removeprefix("torch.")
        return EntryAccount(tuple(value.size), dtype, tuple(sorted(chunks)) if folder else chunks)

    return set(keys), entry_of


def _guard(imports: tuple[str, ...]) -> None:
    """From now on, in this process: DCP's `pickle.load` is given what is let in, and no more."""

    class Guarded(pickle.Unpickler):
        """torch's unpickling, with a word on every name."""

        def find_class(self, module: str, name: str) -> Any:
            if (module, name) in (("builtins", "getattr"), ("__builtin__", "getattr")):
                return _member
            package = module.partition(".")[0]
            if may_import(module, name) or package in imports:
                return super().find_class(module, name)
            if module == "torch":
                found = getattr(torch, name)
                if isinstance(found, torch.dtype):
                    return found
            elif package not in sys.modules and importlib.util.find_spec(package) is None:
                raise ModuleNotFoundError(f"No module named {package!a}")
            raise _NotLetIn(
                f"torch was not let read it: it would import {printable(module, 80)}."
                f"{printable(name, 60)}; --import {printable(package, 40)} lets it"
            )

    class Pickle:
        """The module, as DCP's file system sees it."""

        @staticmethod
        def load(file: Any, *args: Any, **kwargs: Any) -> Any:
            return Guarded(file, *args, **kwargs).load()

        def __getattr__(self, name: str) -> Any:
            return getattr(pickle, name)

    setattr(filesystem, "pickle", Pickle())  # noqa: B010 - torch's module, in this process alone


def _member(owner: Any, name: str) -> Any:
    """`getattr` for the members of an enum, as Python 3.11 pickles them; for nothing else."""
    if isinstance(owner, EnumMeta) and name in owner.__members__:
        return builtins.getattr(owner, name)
    raise _NotLetIn("torch was not let read it: its pickle looks up attributes")


def _short(error: BaseException) -> str:
    return reason(error)[:_MAX_TEXT]
