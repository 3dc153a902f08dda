"""Tensors as safetensors: one file, or shards with an index as Hugging Face names them.

Format: see `checkpoint.safetensors.header`. As the package itself writes it: the widest elements
first and then by name, so that every tensor is aligned; the header padded with spaces to a multiple
of 8 bytes; `{"format": "pt"}` as metadata, which Transformers asks for. Shards are filled in the
order of the checkpoint, as `huggingface_hub` does it; their names never come from a tensor.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import partial

from inspector.checkpoint.safetensors.header import DTYPES, MAX_HEADER_BYTES
from inspector.checkpoint.text import format_bytes, parse_bytes, printable
from inspector.errors import UsageError
from inspector.export.formats.files import (
    HINT,
    ExportItem,
    Frame,
    ItemRegion,
    PlannedFile,
    refuse_items,
)

__all__ = ["INDEX", "is_shard_name", "parse_size", "safetensors_files"]

INDEX = "model.safetensors.index.json"
_ONE = "model.safetensors"
_SHARD = re.compile(r"model-\d{5,}-of-\d{5,}\.safetensors\Z")
_NAMES = {torch_name: name for name, torch_name in DTYPES.items()}


def parse_size(text: str, option: str) -> int:
    """Bytes of `5GB`, `300MB`, `512MiB` or `1000`; as Hugging Face's, GB is 10^9.

    Raises:
        UsageError: It is no size.
    """
    size = parse_bytes(text)
    if not size:
        what = f"{option} takes a size such as 5GB or 300MB, not {printable(text, 60)}"
        raise UsageError(what)
    return int(size)


def is_shard_name(name: str) -> bool:
    """Whether a file of this name is one that an export into a folder writes."""
    return name in (INDEX, _ONE) or _SHARD.match(name) is not None


def safetensors_files(
    items: Sequence[ExportItem], max_shard_bytes: int | None
) -> list[PlannedFile]:
    """The files for these tensors.

    Args:
        items: In the checkpoint's order.
        max_shard_bytes: Bytes of elements in one shard; a larger tensor has one of its own. None
            for one file.

    Raises:
        UsageError: A name or a dtype that safetensors does not hold.
    """
    refuse_items(
        [(item.fqn, why) for item in items if (why := _why_not(item))], "safetensors", HINT
    )
    if max_shard_bytes is None:
        return [_file("", items)]
    shards: list[list[ExportItem]] = [[]]
    room = max_shard_bytes
    for item in items:
        if shards[-1] and item.num_bytes > room:
            shards.append([])
            room = max_shard_bytes
        shards[-1].append(item)
        room -= item.num_bytes
    if len(shards) == 1:
        return [_file(_ONE, items)]
    names = [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    files = [_file(name, shard) for name, shard in zip(names, shards, strict=True)]
    return [*files, _index(dict(zip(names, shards, strict=True)))]


def _why_not(item: ExportItem) -> str:
    if item.dtype not in _NAMES:
        return f"it has no dtype {printable(item.dtype, 40)}"
    if item.dtype == "float4_e2m1fn_x2" and not item.shape:
        return "pairs of float4 without a dim"
    if item.name == "__metadata__":
        return "this name is the header's own"
    try:
        item.name.encode()
    except UnicodeEncodeError:
        return "its name is no Unicode"
    return ""


def _file(name: str, items: Sequence[ExportItem]) -> PlannedFile:
    ordered = sorted(items, key=lambda item: (-item.itemsize, item.name))
    begin = 0
    starts = []
    parts = ['"__metadata__":{"format":"pt"}']
    for item in ordered:
        shape = list(item.shape)
        if item.dtype == "float4_e2m1fn_x2":
            # The format counts values, torch elements of two.
            shape[-1] *= 2
        end = begin + item.num_bytes
        entry = {"dtype": _NAMES[item.dtype], "shape": shape, "data_offsets": [begin, end]}
        parts.append(f"{_json(item.name)}:{_json(entry)}")
        starts.append(begin)
        begin = end
    text = ("{" + ",".join(parts) + "}").encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER_BYTES:
        raise UsageError(
            f"the names take {format_bytes(len(text))}, more than a safetensors file may have",
            "--max-shard-size writes several files",
        )
    head = len(text).to_bytes(8, "little") + text
    regions = tuple(
        ItemRegion(item, len(head) + start) for item, start in zip(ordered, starts, strict=True)
    )
    return PlannedFile(name, regions, len(head) + begin, partial(_header, head))


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _header(head: bytes, crcs: Sequence[int]) -> Frame:
    yield 0, head


def _index(shards: dict[str, list[ExportItem]]) -> PlannedFile:
    total = sum(item.num_bytes for items in shards.values() for item in items)
    places = {item.name: name for name, items in shards.items() for item in items}
    index = {"metadata": {"total_size": total}, "weight_map": places}
    text = (json.dumps(index, indent=2, sort_keys=True) + "\n").encode()
    return PlannedFile(INDEX, (), len(text), partial(_header, text))
