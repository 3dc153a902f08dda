"""What a folder without DCP metadata is, if it is the checkpoint of something else.

The rule this module keeps: told from names alone; a folder that is not sure stays unnamed.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from inspector.checkpoint import torch_checkpointing
from inspector.checkpoint.storage.base import Entry, Storage
from inspector.errors import StorageError

__all__ = ["Lookalike", "lookalike", "lookalike_below", "lookalike_of_file"]


@dataclass(frozen=True, slots=True)
class Lookalike:
    """Another program's checkpoint.

    Attributes:
        what: What it is, to follow `this is`.
        hint: What opens it.
    """

    what: str
    hint: str


_PADDLE = Lookalike(
    "a PaddlePaddle checkpoint: its .distcp and N.metadata files are Paddle's, not torch's",
    "load it with paddle.distributed.load_state_dict",
)

# The first pattern that a name in the folder matches tells. Sources: DeepSpeed's engine
# (`_get_zero_ckpt_name`, `_get_ckpt_name`), verl's FSDP checkpoint manager, cosmos-rl's
# CheckpointManager, Megatron-LM's `get_checkpoint_name`, Orbax, torchsnapshot.
_NAMES: tuple[tuple[re.Pattern[str], Lookalike], ...] = (
    (
        re.compile(
            r"(bf16_|fp16_)?zero_pp_rank_\d+_|mp_rank_\d+_model_states\.pt\Z|global_step\d+\Z"
        ),
        Lookalike(
            "a DeepSpeed checkpoint: one torch.save file a rank, cut up by ZeRO",
            "zero_to_fp32.py in that folder puts it together; DeepSpeed itself loads it",
        ),
    ),
    (
        re.compile(r"(model|optim|extra_state)_world_size_\d+_rank_\d+\.pt\Z"),
        Lookalike(
            "a per-rank checkpoint (verl, SkyRL): one torch.save file a rank, not DCP",
            "verl's FSDPCheckpointManager loads it on the same number of ranks; python -m "
            "verl.model_merger merge --backend fsdp puts the model together",
        ),
    ),
    (
        re.compile(r"\w+\.rank_\d+\.pth\Z"),
        Lookalike(
            "a per-rank checkpoint (dinov2): each file is one rank's shard of FSDP1, not DCP and "
            "no whole model",
            "dinov2's FSDPCheckpointer loads it, on as many ranks as wrote it",
        ),
    ),
    (
        re.compile(r"mp_rank_\d+(_\d+)?\Z|model_optim_rng\.pt\Z|distrib_optim\.pt\Z"),
        Lookalike(
            "a Megatron-LM checkpoint of the older kind: one torch.save file a rank, not DCP",
            "Megatron-LM converts it with --ckpt-convert-format torch_dist",
        ),
    ),
    (
        re.compile(r"cosmos_config\Z|\.rank_\d+_complete\Z"),
        Lookalike(
            "a cosmos-rl checkpoint: torch.save files of each rank, not DCP",
            "resume it with cosmos-rl on the same number of ranks; what it exports lies in "
            "safetensors/step_N beside checkpoints",
        ),
    ),
    (
        re.compile(r"(.*[_-])?rank[_-]?\d+.*\.(pt|pth|bin|ckpt)\Z"),
        Lookalike(
            "a per-rank checkpoint: one torch.save file a rank, not DCP",
            "load every file with torch.load on the rank that wrote it",
        ),
    ),
    (
        re.compile(r"_CHECKPOINT_METADATA\Z|manifest\.ocdbt\Z|_METADATA\Z"),
        Lookalike("an Orbax (JAX) checkpoint", "load it with orbax.checkpoint"),
    ),
    (
        re.compile(r"\.snapshot_metadata\Z"),
        Lookalike("a torchsnapshot checkpoint", "load it with torchsnapshot"),
    ),
)

_TORCH_CHECKPOINTING = Lookalike(torch_checkpointing.WHAT, torch_checkpointing.HINT)
_ONE_FILE = Lookalike(
    "a folder of whole torch.save files, not DCP", "load each with torch.load(..., mmap=True)"
)


# Folders that are looked into, and how deep (verl: global_step_5/actor).
_MAX_BELOW = 16
_MAX_DEPTH = 2


def lookalike(listing: Iterable[Entry]) -> Lookalike | None:
    """Whose checkpoint a listed folder is, if it looks like DCP's and is not."""
    names = [entry.name for entry in listing]
    has_data = any(name.endswith(".distcp") for name in names)
    if any(re.fullmatch(r"\d+\.metadata", name) for name in names):
        return _PADDLE
    if has_data:
        return None
    if any("torch_checkpointing" in name for name in names) or (
        torch_checkpointing.METADATA_FILE in names
        and any(re.fullmatch(r".+_\d+\.(safetensors|pt)", name) for name in names)
    ):
        return _TORCH_CHECKPOINTING
    found = _named(names)
    if found is not None:
        return found
    if any(
        name.endswith((".pt", ".pth", ".ckpt")) or name == "pytorch_model.bin" for name in names
    ):
        return _ONE_FILE
    return None


def lookalike_of_file(name: str) -> Lookalike | None:
    """Whose checkpoint a torch.save file is a part of, as its name tells; None if it is whole."""
    return _named([name])


def lookalike_below(storage: Storage, listing: Iterable[Entry]) -> tuple[str, Lookalike] | None:
    """The first folder below a listed one that is another program's checkpoint, and whose.

    Few folders are looked into, and plain torch.save files are not told of.
    """
    pending = deque((entry.name, 1) for entry in listing if entry.kind == "folder")
    for _ in range(_MAX_BELOW):
        if not pending:
            break
        path, depth = pending.popleft()
        try:
            below = storage.list(path)
        except StorageError:
            continue
        found = lookalike(below)
        if found is not None and found is not _ONE_FILE:
            return path, found
        if depth < _MAX_DEPTH:
            pending += [(f"{path}/{e.name}", depth + 1) for e in below if e.kind == "folder"]
    return None


def _named(names: list[str]) -> Lookalike | None:
    for pattern, found in _NAMES:
        if any(pattern.match(name) for name in names):
            return found
    return None
