"""Loads the samples with plain `dcp.load` in one process, to compare with the recorded truth."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load

from maker.truth import digest

POISON = 0xA5
SIZE_LIMIT = 5_000_000


def check_sample(folder: Path, truth: Mapping[str, Any]) -> list[str]:
    """Loads one checkpoint into whole tensors.

    Args:
        folder: The checkpoint.
        truth: Its record in `expected.json`.

    Returns:
        What is wrong, one line each; empty if it holds what was saved.
    """
    warnings.filterwarnings("ignore")
    if truth["format"] == "safetensors" and "HuggingFaceStorageWriter" not in truth["framework"]:
        # DCP's reader does not know the names of all dtypes.
        return _differences(_plain(folder), truth)
    with _loadable(folder, truth["metadata"]) as (path, readers):
        problems = [problem for reader in readers for problem in _foreign_paths(path, reader)]
        loaded: dict[str, Any] = {}
        for reader in readers:
            _load(reader, loaded)
    return problems + _differences(loaded, truth)


def _plain(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    files = sorted(folder.glob("*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def check_size(root: Path) -> list[str]:
    """The samples travel with the repository, so they must stay small."""
    files = (file for file in root.rglob("*") if "__pycache__" not in file.parts)
    total = sum(file.stat().st_size for file in files if file.is_file())
    return [] if total < SIZE_LIMIT else [f"the samples take {total:,} bytes, over {SIZE_LIMIT:,}"]


class _RankReader(FileSystemReader):
    """Reads one rank's own metadata, which a single process could otherwise not choose."""

    def __init__(self, path: Path, rank: int) -> None:
        super().__init__(path)
        self._metadata_rank = rank

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        return super().read_metadata(rank=self._metadata_rank)


@contextmanager
def _loadable(
    folder: Path, metadata: list[str]
) -> Iterator[tuple[Path, Sequence[FileSystemReader]]]:
    """Readers that between them load the checkpoint; an unfinished save is finished in a copy."""
    if (folder / "../.metadata.json").exists():
        # torch's reader wants attributes of the storage entries that OLMo-core's class has not.
        from olmo_core.distributed.checkpoint import RemoteFileSystemReader

        yield folder, [RemoteFileSystemReader(str(folder))]
    elif not metadata:
        yield folder, [HuggingFaceStorageReader(str(folder))]
    elif metadata == [".metadata"]:
        yield folder, [FileSystemReader(folder)]
    elif metadata == [".metadata.tmp"]:
        with tempfile.TemporaryDirectory() as scratch:
            copy = shutil.copytree(folder, Path(scratch, "copy"))
            (copy / ".metadata.tmp").rename(copy / ".metadata")
            yield copy, [FileSystemReader(copy)]
    else:
        yield folder, [_RankReader(folder, rank) for rank in range(len(metadata))]


def _load(reader: FileSystemReader, loaded: dict[str, Any]) -> None:
    """Adds what the reader's metadata names to `loaded`."""
    entries = reader.read_metadata().state_dict_metadata
    wanted = {fqn: loaded.get(fqn, _target(entry)) for fqn, entry in entries.items()}
    load(wanted, storage_reader=reader, no_dist=True)
    loaded.update(wanted)


def _target(entry: object) -> Any:
    """A whole tensor full of poison, since torch does not say when it leaves a gap."""
    if not isinstance(entry, TensorStorageMetadata):
        return None
    tensor = torch.empty(entry.size, dtype=entry.properties.dtype)
    tensor.reshape(-1).view(torch.uint8).fill_(POISON)
    return tensor


def _differences(loaded: Mapping[str, Any], truth: Mapping[str, Any]) -> list[str]:
    found = {
        fqn: digest(value) if isinstance(value, torch.Tensor) else repr(value)
        for fqn, value in loaded.items()
        if isinstance(value, torch.Tensor) or truth["bytes"] is not None
    }
    expected = {**truth["digests"], **(truth["bytes"] or {})}
    return [
        f"{fqn!r}: saved {expected.get(fqn)}, loaded {found.get(fqn)}"
        for fqn in sorted(expected.keys() | found.keys())
        if expected.get(fqn) != found.get(fqn)
    ]


def _holds(file: Path, text: bytes) -> bool:
    return file.is_file() and text in file.read_bytes()


def _foreign_paths(path: Path, reader: FileSystemReader) -> list[str]:
    """No sample may carry a path of the machine that made it."""
    meta = reader.read_metadata().storage_meta
    written_to = Path(meta.checkpoint_id) if meta and meta.checkpoint_id else Path()
    problems = [f"the metadata names {written_to}"] if written_to.is_absolute() else []
    here = str(Path(__file__).resolve().parents[2]).encode()
    holders = [file.name for file in path.rglob("*") if _holds(file, here)]
    return problems + [f"{name} holds {here!r}" for name in holders]
