"""What torch does with a case, in a process of its own that forks for each: loaded, or raised.

Targets are filled with one pattern and, in a second load, with another: what differs between the
two was not written. Values are held against those of the intact sample, bit by bit.
"""

from __future__ import annotations

import gc
import io
import json
import logging
import math
import os
import pickle
import resource
import select
import signal
import sys
import traceback
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from safetensors import safe_open
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

_LIMIT_S = 80.0
_MEMORY_BYTES = 12 << 30
#: The largest state dict that is made room for.
_MAX_BYTES = 1 << 30
_POISONS = (0xA5, 0x5A)


class _NotTried(Exception):
    """Nothing can be said of this one."""


def load(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """All that torch loads of a folder, and the names of tensors that it leaves unwritten.

    Raises:
        Exception: What torch raises.
    """
    if any(folder.glob("*.safetensors")) and not (folder / ".metadata").exists():
        return _load_safetensors(folder), []
    metadata = FileSystemReader(folder).read_metadata()
    first, second = (_load(folder, metadata.state_dict_metadata, poison) for poison in _POISONS)
    unwritten = [
        name
        for name, value in first.items()
        if isinstance(value, torch.Tensor) and not same(value, second[name])
    ]
    return first, unwritten


def _load(folder: Path, entries: dict[str, Any], poison: int) -> dict[str, Any]:
    state: dict[str, Any] = {}
    for name, entry in entries.items():
        if isinstance(entry, TensorStorageMetadata):
            size = math.prod(entry.size) * entry.properties.dtype.itemsize
            if size > _MAX_BYTES:
                raise _NotTried(f"{size} bytes")
            value = torch.empty(entry.size, dtype=entry.properties.dtype)
            if value.numel():
                value.reshape(-1).view(torch.uint8).fill_(poison)
            state[name] = value
        else:
            state[name] = io.BytesIO()
    dcp.load(state, storage_reader=FileSystemReader(folder), no_dist=True)
    return state


def _load_safetensors(folder: Path) -> dict[str, Any]:
    """Every tensor of every file, or what an index says, as transformers reads it."""
    names: dict[str, list[str]] = {}
    for index in sorted(folder.glob("*.index.json")):
        for name, file in json.loads(index.read_text())["weight_map"].items():
            names.setdefault(file, []).append(name)
    state = {}
    for path in [folder / name for name in names] or sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in names.get(path.name) or file.keys():
                key = name if names else f"{path.name}:{name}"
                state[key] = file.get_tensor(name)
    return state


def same(a: Any, b: Any) -> bool:
    """Whether two values are the same, tensors bit by bit."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        if a.dtype != b.dtype or a.shape != b.shape:
            return False
        if a.is_quantized or not a.numel():
            return a.is_quantized == b.is_quantized
        one, other = (x.detach().contiguous().reshape(-1).view(torch.uint8) for x in (a, b))
        return torch.equal(one, other)
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, io.BytesIO):
        return a.getvalue() == b.getvalue()
    try:
        return pickle.dumps(a) == pickle.dumps(b) or bool(a == b)
    except Exception:
        return repr(a) == repr(b)


@cache
def intact(sample: str) -> dict[str, Any] | None:
    """What a sample holds, or None where this torch does not load it."""
    try:
        state, unwritten = load(Path(sample))
    except BaseException:  # torch's CheckpointException is no Exception
        return None
    return None if unwritten else state


def outcome(folder: Path, sample: str) -> dict[str, Any]:
    """What torch makes of a folder that was `sample`.

    Returns:
        `torch`: `same`; `other` values under a name; `names` where only names differ; `unwritten`;
        `raises`; `untried`. And a `detail`.
    """
    expected = intact(sample)
    if expected is None:
        return {"torch": "untried", "detail": "the sample is not for this torch"}
    try:
        found, unwritten = load(folder)
    except _NotTried as error:
        return {"torch": "untried", "detail": str(error)}
    except BaseException as error:
        # A job's error holds those of its ranks.
        inner = [failure[0] for failure in getattr(error, "failures", {}).values()]
        said = traceback.format_exception_only(*inner[:1] or [error])[-1]
        return {"torch": "raises", "detail": f"{said:.300}"}
    if unwritten:
        return {"torch": "unwritten", "detail": repr(unwritten[:3])}
    common = [name for name in expected if name in found]
    differ = [name for name in common if not same(expected[name], found[name])]
    if differ:
        return {"torch": "other", "detail": repr(differ[:3])}
    if len(found) != len(expected) or len(common) != len(expected):
        names = [n for n in {**found, **expected} if n not in common]
        return {"torch": "names", "detail": repr(names[:3])[:300]}
    return {"torch": "same", "detail": ""}


def _forked(folder: Path, sample: str) -> dict[str, Any]:
    """`outcome` in a fork of bounded memory and time."""
    intact(sample)
    ours, theirs = os.pipe()
    pid = os.fork()
    if not pid:
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
        os.close(ours)
        os.dup2(2, 1)
        answer = json.dumps(outcome(folder, sample), default=repr).encode()
        os.write(theirs, answer[:60_000])
        os._exit(0)
    os.close(theirs)
    try:
        ready, _, _ = select.select([ours], [], [], _LIMIT_S)
        text = os.read(ours, 65_536) if ready else b""
    finally:
        os.close(ours)
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    if text:
        found: dict[str, Any] = json.loads(text)
        return found
    return {"torch": "raises", "detail": f"it ended with {status}" if ready else "it hangs"}


def work() -> None:
    """Answer each case that a line of stdin names."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    gc.disable()  # Each fork would copy the pages that it marks.
    for line in sys.stdin:
        folder, sample = json.loads(line)
        print(json.dumps(_forked(Path(folder), sample)), flush=True)


if __name__ == "__main__":
    work()
