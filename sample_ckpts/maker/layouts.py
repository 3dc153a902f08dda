"""Other layouts of DCP, and safetensors: each written by DCP's or safetensors' own classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict import get_model_state_dict
from torch.distributed.checkpoint.state_dict_saver import save

from maker.models import SimpleModelUneven
from maker.tensors import tensors_by_dtype, tensors_by_name, tensors_by_shape
from maker.writers import Saved, fsdp2_wrapped, mesh_of

# Not in a dtype sample: safetensors has no name for them.
_NOT_STORABLE = ("complex128",)


def _sharded_model(axes: Mapping[str, int]) -> dict[str, Any]:
    return get_model_state_dict(fsdp2_wrapped(SimpleModelUneven(), mesh_of(**axes)))


def hugging_face_sharded(path: str, *, axes: Mapping[str, int]) -> Iterator[Saved]:
    """A safetensors file for each rank, with DCP's sharding information and no index."""
    state = _sharded_model(axes)
    save(state, storage_writer=HuggingFaceStorageWriter(path, save_distributed=True))
    yield Saved(path, state, metadata=(), format="safetensors")


def hugging_face_consolidated(path: str) -> Iterator[Saved]:
    """Whole tensors in two files with an index, and in `sharded` what they were made of."""
    state = _sharded_model({"shard": 2})
    in_first = ("net1.", "net2.")
    writer = HuggingFaceStorageWriter(
        path,
        fqn_to_index_mapping={fqn: 1 if fqn.startswith(in_first) else 2 for fqn in state},
        save_distributed=True,
        enable_consolidation=True,
    )
    save(state, storage_writer=writer)
    yield Saved(path, state, metadata=(), format="safetensors")
    yield Saved(f"{path}/sharded", state, metadata=(), format="safetensors")


def hugging_face_whole(path: str) -> Iterator[Saved]:
    """One process saves whole tensors: one file, with DCP's metadata, and an index."""
    state = dict(SimpleModelUneven().state_dict())
    save(state, storage_writer=HuggingFaceStorageWriter(path))
    yield Saved(path, state, metadata=(), format="safetensors")


def safetensors_dtypes(path: str) -> Iterator[Saved]:
    """One plain file by the safetensors package: every dtype and shape that it can hold."""
    from safetensors.torch import save_file

    groups = {
        "dtypes": {k: v for k, v in tensors_by_dtype().items() if k not in _NOT_STORABLE},
        "shapes": tensors_by_shape(),
        "names": tensors_by_name(),
    }
    more: dict[str, Tensor] = {
        name: torch.arange(10).to(getattr(torch, name))
        for name in ("int16", "int32", "uint8", "uint32", "uint64")
    }
    more["float4_e2m1fn_x2"] = torch.arange(8, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    groups["dtypes"] |= more
    state = {
        f"{g}.{n}": t.contiguous() for g, tensors in groups.items() for n, t in tensors.items()
    }
    Path(path).mkdir()
    save_file(state, f"{path}/model.safetensors", metadata={"made by": "the samples' script"})
    yield Saved(path, state, metadata=(), format="safetensors")


def zstd(path: str) -> Iterator[Saved]:
    """Every payload a zstd frame (DCP's stream extension, torch 2.7 on)."""
    from torch.distributed.checkpoint._extension import ZStandard

    state = {"model": _sharded_model({"shard": 2}), "step": 7}
    save(state, storage_writer=FileSystemWriter(path, _extensions=[ZStandard()]))
    yield Saved(path, state)


def file_per_item(path: str) -> Iterator[Saved]:
    """A data file for every item: `single_file_per_rank=False`, two threads."""
    state = {"model": _sharded_model({"shard": 2}), "step": 7}
    writer = FileSystemWriter(path, single_file_per_rank=False, thread_count=2)
    save(state, storage_writer=writer)
    yield Saved(path, state)
