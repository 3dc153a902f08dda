"""A consolidated safetensors checkpoint against the ranks' shards that it was put together from.

Two layouts are met: the shards below (`sharded/`, as DCP's HuggingFaceStorageWriter leaves them)
or above (`consolidated/` in the folder of the shards, as transformers and NeMo AutoModel write
it); and a third, where both lie in one folder, which no reader expects.

The rule this module keeps: an element counts as lost only if no shard holds it and the
consolidated file has nothing but zero bytes in its place, which is what consolidation leaves
(torch/distributed/checkpoint/_consolidate_hf_safetensors.py, run with torch 2.13).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from inspector.checkpoint.dtypes import itemsize
from inspector.checkpoint.find.identify import identify
from inspector.checkpoint.model import Checkpoint, Tensor
from inspector.checkpoint.safetensors.reader import read_safetensors
from inspector.checkpoint.safetensors.sets import FileSet, OneSet, file_sets, shard_rank
from inspector.checkpoint.storage.base import Storage
from inspector.checkpoint.storage.local import LocalStorage
from inspector.checkpoint.text import format_box, plural, printable
from inspector.checks.findings import Finding, NotChecked
from inspector.checks.metadata.cover import MAX_WORK, Box, Cover, analyse
from inspector.checks.metadata.tiling import unproven
from inspector.errors import InspectError

__all__ = ["check_consolidation"]

#: Bytes of a tensor that are looked at to see whether consolidation left zeros.
_MAX_LOOK = 64 << 10
_MAX_FOLDERS = 50
_MAX_SCALARS = 4096
_BELOW = "sharded/"


def check_consolidation(
    checkpoint: Checkpoint, storage: Storage
) -> tuple[list[Finding], list[NotChecked]]:
    """What the shards beside a consolidated checkpoint tell of it.

    Args:
        checkpoint: The checkpoint; one that is not safetensors, or is the shards, has none.
        storage: Its folder.
    """
    stored = checkpoint.stored
    if stored is None or isinstance(storage, OneSet):
        return [], []
    if stored.is_sharded:
        return [], _below(storage)
    try:
        here = _shards(storage)
        if here is not None:
            return _mixed(checkpoint, storage, here), []
        beside = _shards_beside(storage)
        if beside is None:
            return [], []
        return list(_lost(checkpoint, storage, beside)), []
    except InspectError as error:
        why = f"they cannot be read: {error.message}"
        return [], [NotChecked("the ranks' shards that it was put together from", why)]


def _below(storage: Storage) -> list[NotChecked]:
    """Checkpoints right below a folder of shards: they are not judged with it."""
    folders = [e.name for e in storage.list() if e.kind == "folder" and not e.name.startswith(".")]
    found = []
    for name in folders[:_MAX_FOLDERS]:
        try:
            below = storage.join(name)
            if identify(below, below.list()):
                found.append(name)
        except InspectError:
            found.append(name)
    if not found:
        return []
    what = ", ".join(printable(name, 60) for name in found)
    return [NotChecked(what, "a checkpoint of its own below this one: check it by its own path")]


def _shards(storage: Storage) -> Checkpoint | None:
    """The shards in a folder, or None if there are none of DCP's."""
    names = [entry.name for entry in storage.list() if entry.kind == "file"]
    names = sorted(name for name in names if shard_rank(name) is not None)
    if not names:
        return None
    one = FileSet(names[0], file_sets(names)[0].stem, tuple(names))
    shards = read_safetensors(OneSet(storage, one))
    return shards if shards.stored is not None and shards.stored.is_sharded else None


@dataclass(frozen=True, slots=True)
class _Shards:
    """The ranks' shards beside a consolidation: their folder, as it is told, and what is in it."""

    where: str
    storage: Storage
    checkpoint: Checkpoint


def _shards_beside(storage: Storage) -> _Shards | None:
    """The shards below or above, or None."""
    if any(e.name == "sharded" and e.kind == "folder" for e in storage.list()):
        below = storage.join("sharded")
        found = _shards(below)
        return None if found is None else _Shards(_BELOW, below, found)
    path = storage.local_path("")
    if path is None:
        return None
    path = os.path.abspath(path)
    if os.path.basename(path) != "consolidated":
        return None
    above = LocalStorage(os.path.dirname(path))
    found = _shards(above)
    return None if found is None else _Shards("the folder above", above, found)


# -- elements that no shard holds ----------------------------------------------------------------


def _lost(checkpoint: Checkpoint, storage: Storage, beside: _Shards) -> Iterator[Finding]:
    mine = {fqn: index for index, fqn in enumerate(checkpoint.columns.fqns)}
    yield from _left_out(beside, mine)
    yield from _zeroed(checkpoint, storage, beside, mine)
    shards, where = beside.checkpoint, beside.where
    work = MAX_WORK
    for index in unproven(shards.columns).tolist():
        shard = shards.columns.tensor(index)
        if shard.fqn not in mine:
            continue
        cover = analyse(shard.offsets, shard.sizes, shard.shape, max_work=work)
        work = max(work - cover.work, 0)
        tensor = checkpoint.columns.tensor(mine[shard.fqn])
        if not cover.num_gap or tensor.shape != shard.shape or tensor.num_chunks != 1:
            continue
        if _is_zero(checkpoint, storage, tensor, cover.gaps):
            yield _gap(tensor, cover, where)


def _left_out(shards: _Shards, mine: dict[str, int]) -> Iterator[Finding]:
    """Tensors of the shards that are not here; only of torch's layout, which keeps the names."""
    if shards.where != _BELOW:
        return
    lacking = [fqn for fqn in shards.checkpoint.columns.fqns if fqn not in mine]
    if lacking:
        yield Finding(
            "index-mismatch",
            f"the ranks' shards (in {shards.where}) hold {plural(len(lacking), 'tensor')} that no "
            f"file here has; the first is {printable(lacking[0], 120)}",
            "raises an error for each that the model asks for; transformers makes new values "
            "for it",
            "a tied weight may be left out on purpose; else put the files together again with a "
            "mapping that names every tensor (torch leaves out what the mapping lacks)",
            severity="note",
        )


def _zeroed(
    checkpoint: Checkpoint, storage: Storage, shards: _Shards, mine: dict[str, int]
) -> Iterator[Finding]:
    """0-d tensors that are zero here and not in their shard: consolidation copies none of them."""
    columns = shards.checkpoint.columns
    is_scalar = (np.diff(columns.dim_start) == 0) & (columns.num_chunks_of > 0)
    for index in np.flatnonzero(is_scalar).tolist()[:_MAX_SCALARS]:
        shard = columns.tensor(index)
        if shard.fqn not in mine:
            continue
        tensor = checkpoint.columns.tensor(mine[shard.fqn])
        if tensor.shape or tensor.num_chunks != 1 or tensor.dtype != shard.dtype:
            continue
        here = _bytes_of(checkpoint, storage, tensor)
        there = _bytes_of(shards.checkpoint, shards.storage, shard)
        if here and not here.strip(b"\0") and there.strip(b"\0"):
            path = shards.checkpoint.files[int(shard.file[0])].path
            yield Finding(
                "chunk-gap",
                f"{printable(tensor.fqn, 120)}: zero here, and not in the rank's shard that it was "
                f"put together from ({printable(path, 80)}, in {shards.where})",
                "loads the zero silently: consolidation copies no 0-d tensor (torch 2.13)",
                "its value is in the shards: load those, or write it into this file from there",
                fqn=tensor.fqn,
                file=checkpoint.files[int(tensor.file[0])].path,
                offsets=(),
                sizes=(),
                num_elements=1,
            )


def _bytes_of(checkpoint: Checkpoint, storage: Storage, tensor: Tensor) -> bytes:
    """The bytes of a small tensor's first chunk; none if they lie nowhere."""
    file, length = int(tensor.file[0]), int(tensor.byte_length[0])
    if file < 0 or not 0 < length <= _MAX_LOOK:
        return b""
    return storage.read(checkpoint.files[file].path, int(tensor.byte_offset[0]), length)


def _gap(tensor: Tensor, cover: Cover, where: str) -> Finding:
    num, first = cover.num_gap, cover.gaps[0]
    about = "" if cover.complete else "at least "
    return Finding(
        "chunk-gap",
        f"{printable(tensor.fqn, 120)}: {about}{num:,} of {tensor.num_elements:,} elements are in "
        f"no rank's shard ({where}), and zeros here: "
        f"{format_box(list(first.offsets), first.sizes)}"
        + (f" and {len(cover.gaps) - 1} more" if len(cover.gaps) > 1 else ""),
        f"loads the zeros silently: consolidation fills with them what no shard holds ({num:,} "
        "elements)",
        "the save lost them (HuggingFaceStorageWriter keeps one chunk of a tensor for each rank): "
        "load an earlier checkpoint, or save this one again as DCP's own format",
        fqn=tensor.fqn,
        file=None,
        offsets=first.offsets,
        sizes=first.sizes,
        num_elements=num,
    )


def _is_zero(
    checkpoint: Checkpoint, storage: Storage, tensor: Tensor, gaps: tuple[Box, ...]
) -> bool:
    """Whether the elements of the gaps, as many as are looked at, are zero bytes."""
    size = itemsize(tensor.dtype) or 0
    file, begin = int(tensor.file[0]), int(tensor.byte_offset[0])
    if not size or file < 0:
        return False
    path, left = checkpoint.files[file].path, _MAX_LOOK
    for start, length in _runs(tensor.shape, gaps):
        length = min(length * size, left)
        if storage.read(path, begin + start * size, length).strip(b"\0"):
            return False
        left -= length
        if left <= 0:
            break
    return left < _MAX_LOOK


def _runs(shape: tuple[int, ...], boxes: tuple[Box, ...]) -> Iterator[tuple[int, int]]:
    """Stretches of boxes of a tensor in C order, each as its first element and length."""
    steps = [math.prod(shape[dim + 1 :]) for dim in range(len(shape))]
    for box in boxes:
        # From this dim on the box spans the tensor whole, so that what it holds lies together.
        dim = len(shape)
        while dim > 0 and box.sizes[dim - 1] == shape[dim - 1]:
            dim -= 1
        dim = max(dim - 1, 0)
        length = math.prod(box.sizes[dim:])
        outer = box.sizes[:dim]
        for number in range(math.prod(outer)):
            start = sum(o * step for o, step in zip(box.offsets, steps, strict=True))
            for n, step in zip(reversed(outer), reversed(steps[:dim]), strict=True):
                number, at = divmod(number, n)
                start += at * step
            yield start, length


# -- both in one folder --------------------------------------------------------------------------


def _mixed(checkpoint: Checkpoint, storage: Storage, shards: Checkpoint) -> list[Finding]:
    """Shards and their consolidation in one folder, as a reader of every file in it sees them."""
    order = _listed(storage)
    both: list[str] = []
    raises: list[str] = []
    index = {fqn: number for number, fqn in enumerate(shards.columns.fqns)}
    for number, fqn in enumerate(checkpoint.columns.fqns):
        if fqn not in index:
            continue
        both.append(fqn)
        whole, shard = checkpoint.columns.tensor(number), shards.columns.tensor(index[fqn])
        zero = [i for i in range(shard.num_chunks) if not shard.offsets[i].any()]
        other = [i for i in zero if tuple(shard.sizes[i].tolist()) != whole.shape]
        if not other:
            continue
        # Both begin at the origin, by which torch keeps one place: that of the file listed last.
        places = [order.get(shards.files[int(shard.file[i])].path, -1) for i in zero]
        if order.get(checkpoint.files[int(whole.file[0])].path, -1) < max(places):
            raises.append(fqn)
    if not both:
        return []
    names = [f.path for f in shards.files if f.num_payloads]
    first = printable((raises or both)[0], 120)
    what = (
        f"{plural(len(names), 'shard file')} of ranks ({printable(names[0], 80)} is one) lie in "
        f"one folder with what was put together from them: {plural(len(both), 'tensor')} twice"
    )
    hint = (
        "keep the two apart: move the shards (or the consolidated files and their index) into a "
        "folder of their own; nothing is lost"
    )
    if raises:
        return [
            Finding(
                "chunk-overlap",
                f"{what}; {plural(len(raises), 'tensor')} cannot be loaded from it, {first} is "
                "the first",
                "HuggingFaceStorageReader, and from_pretrained of transformers 5.24 by it, raise "
                "AssertionError: mismatch sizes; readers that go by the index alone load it",
                hint,
                fqn=raises[0],
                file=names[0],
            )
        ]
    return [
        Finding(
            "chunk-overlap",
            what,
            "HuggingFaceStorageReader loads it or raises AssertionError: mismatch sizes, by the "
            "order in which the disk lists the files",
            hint,
            fqn=both[0],
            file=names[0],
            severity="warning",
        )
    ]


def _listed(storage: Storage) -> dict[str, int]:
    """Files by the place at which the disk lists them, as torch goes through them; or nothing."""
    path = storage.local_path("")
    if path is None:
        return {}
    try:
        return {name: place for place, name in enumerate(os.listdir(path))}
    except OSError:
        return {}
