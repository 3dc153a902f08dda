"""A mutation: a sample of some kind, copied, with one file of it changed, made again by its number.

What lies in a case's folder: `ckpt`, and for some kinds `seal.json` or `events.jsonl` beside it.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from inspector.checkpoint.dcp import read_dcp
from inspector.checkpoint.find.locate import folder_of
from inspector.checks.seal.manifest import manifest_json
from inspector.checks.seal.seal import seal
from tests.helpers.fuzz.mutations import (
    change_bytes,
    change_header,
    change_inner_pickle,
    change_json,
    change_lines,
    change_opcodes,
    change_values,
    change_zip,
)

ROOT = Path(__file__).resolve().parents[3]
_GOLDEN = "tests/data/golden"
_SEALED = "sample_ckpts/fsdp_4"
_RECORDING = ROOT / "tests/data/runs/hsdp_2x4/events.jsonl"
_MAX_LINES = 60
_TIME_S = 1_790_000_000
#: Small ones, of every writer, kind of entry and version of the format.
DCP = (
    "sample_ckpts/hsdp_2x2",
    "sample_ckpts/hsdp_uneven_2x4",
    "sample_ckpts/lowest_rank_2x2",
    "sample_ckpts/fsdp_4",
    "sample_ckpts/file_per_item_2",
    "sample_ckpts/fsdp1_sharded_tensor_4",
    "sample_ckpts/accelerate_fsdp/optimizer_0",
    "sample_ckpts/names_hostile_1",
    "sample_ckpts/per_rank_metadata_2",
    "sample_ckpts/fsdp2_tp_2x2",
    "sample_ckpts/dtypes_4",
    "sample_ckpts/zstd_2",
    "sample_ckpts/torchtitan_2/step-10",
    f"{_GOLDEN}/1.13.1/st_nested",
    f"{_GOLDEN}/2.0.1/st_flat",
    f"{_GOLDEN}/2.3.1/fsdp4_opt",
    f"{_GOLDEN}/2.6.0/tp2d",
    f"{_GOLDEN}/2.10.0/st_nested",
    f"{_GOLDEN}/2.15.0/hsdp2x2",
)
SAFETENSORS = (
    "sample_ckpts/safetensors_1",
    "sample_ckpts/transformers_1",
    "sample_ckpts/hf_dcp_whole_1",
    "sample_ckpts/hf_dcp_consolidated_2",
    "sample_ckpts/hf_dcp_sharded_4",
)

Mutate = Callable[[Path, random.Random], str]
Change = Callable[[bytes, random.Random], bytes]


@dataclass(frozen=True)
class Case:
    """What was changed.

    Attributes:
        number: Of the mutation; with the seed it makes it again.
        kind: A key of `KINDS`.
        sample: What was copied, relative to the project.
        file: What was changed, relative to the case's folder.
    """

    number: int
    kind: str
    sample: str
    file: str


def _in(pattern: str, change: Change) -> Mutate:
    """Change one of the files that match, if it has bytes."""

    def mutate(folder: Path, rng: random.Random) -> str:
        files = [p for p in sorted(folder.glob(pattern)) if p.is_file() and p.stat().st_size]
        path = rng.choice(files)
        path.write_bytes(change(path.read_bytes(), rng))
        return str(path.relative_to(folder))

    return mutate


def _splice_metadata(folder: Path, rng: random.Random) -> str:
    other = (ROOT / rng.choice(DCP[:3]) / ".metadata").read_bytes()
    return _in("ckpt/*.metadata", lambda data, r: change_bytes(data, r, other))(folder, rng)


def _inner_pickle(folder: Path, rng: random.Random) -> str:
    """Changes the pickle of one payload, and lets the metadata know its new length."""
    metadata_file = rng.choice(sorted(folder.glob("ckpt/*.metadata")))
    metadata = pickle.loads(metadata_file.read_bytes())
    index = rng.choice(list(metadata.storage_data))
    info = metadata.storage_data[index]
    path = folder / "ckpt" / info.relative_path
    data = path.read_bytes()
    new = change_inner_pickle(data[info.offset : info.offset + info.length], rng)
    # To the file's end, so that no other payload has to move.
    path.write_bytes(data + new)
    info.offset, info.length = len(data), len(new)
    metadata_file.write_bytes(pickle.dumps(metadata))
    return str(path.relative_to(folder))


def _files(folder: Path, rng: random.Random) -> str:
    """Files that are gone, cut, exchanged, of another kind."""
    ckpt = folder / "ckpt"
    path = rng.choice([p for p in sorted(ckpt.iterdir()) if p.is_file()])
    kind = rng.randrange(7)
    if kind == 0:
        path.unlink()
    elif kind == 1:
        path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size + 1)])
    elif kind == 2:
        other = rng.choice([p for p in sorted(ckpt.iterdir()) if p.is_file()])
        one, two = path.read_bytes(), other.read_bytes()
        path.write_bytes(two)
        other.write_bytes(one)
    elif kind == 3:
        path.unlink()
        rng.choice((path.mkdir, lambda: os.mkfifo(path), lambda: path.symlink_to(path)))()
    elif kind == 4:
        path.rename(ckpt / rng.choice((".metadata.tmp", "__7_0.distcp", "x\x1b[2J", "0.metadata")))
    elif kind == 5:
        path.write_bytes(
            rng.choice((bytes(5000), b"<html>", b"{}", b"\x1f\x8b", rng.randbytes(99)))
        )
    else:
        shutil.copyfile(path, ckpt / rng.choice(("__99999_0.distcp", "__1.metadata", "y.tmp")))
    return str(path.relative_to(folder))


def _integrity(folder: Path, rng: random.Random) -> str:
    """Megatron's list of digests, made for the folder and changed."""
    files = {
        p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in (folder / "ckpt").iterdir()
    }
    path = folder / "ckpt/integrity.json"
    path.write_bytes(change_json(json.dumps({"algorithm": "sha256", "files": files}).encode(), rng))
    return str(path.relative_to(folder))


@cache
def seal_text() -> bytes:
    """The seal of one sample, as the command writes it, the same each time."""
    storage = folder_of(str(ROOT / _SEALED))
    made = seal(read_dcp(storage), storage)
    return manifest_json(replace(made, path="fsdp_4", created="2026-01-01T00:00:00Z")).encode()


def _seal(folder: Path, rng: random.Random) -> str:
    (folder / "seal.json").write_bytes(change_json(seal_text(), rng))
    return "seal.json"


def _recording(folder: Path, rng: random.Random) -> str:
    lines = _RECORDING.read_bytes().splitlines(keepends=True)
    kept = sorted(rng.sample(range(1, len(lines) - 1), min(len(lines) - 2, _MAX_LINES)))
    text = b"".join([lines[0], *(lines[i] for i in kept), lines[-1]])
    (folder / "events.jsonl").write_bytes(change_lines(text, rng))
    return "events.jsonl"


@dataclass(frozen=True)
class Kind:
    """A kind of mutation: how often, of which samples, and how."""

    weight: int
    samples: tuple[str, ...]
    mutate: Mutate


KINDS = {
    "metadata bytes": Kind(14, DCP, _splice_metadata),
    "metadata opcodes": Kind(16, DCP, _in("ckpt/*.metadata", change_opcodes)),
    "metadata values": Kind(18, DCP, _in("ckpt/*.metadata", change_values)),
    "payload bytes": Kind(10, DCP, _in("ckpt/*.distcp", change_bytes)),
    "payload zip": Kind(8, DCP, _in("ckpt/*.distcp", change_zip)),
    "payload pickle": Kind(9, DCP, _inner_pickle),
    "files": Kind(5, DCP + SAFETENSORS, _files),
    "safetensors bytes": Kind(4, SAFETENSORS, _in("ckpt/*.safetensors", change_bytes)),
    "safetensors header": Kind(6, SAFETENSORS, _in("ckpt/*.safetensors", change_header)),
    "index": Kind(3, SAFETENSORS, _in("ckpt/*.index.json", change_json)),
    "integrity": Kind(2, DCP[:4], _integrity),
    "seal": Kind(2, (_SEALED,), _seal),
    "recording": Kind(3, (_SEALED,), _recording),
}


def make_case(folder: Path, number: int, seed: int) -> Case:
    """Makes mutation `number` in a folder, which is emptied before.

    The same seed and number make the same files.
    """
    rng = random.Random(f"{seed}:{number}")  # noqa: S311  (not for secrets)
    kinds = list(KINDS)
    weights = [KINDS[kind].weight for kind in kinds]
    while True:
        kind = rng.choices(kinds, weights)[0]
        sample = rng.choice(KINDS[kind].samples)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(ROOT / sample, folder / "ckpt")
        try:
            file = KINDS[kind].mutate(folder, rng)
        except Exception:  # noqa: S112
            continue  # No such mutation of this sample (a value that cannot be pickled, say).
        same_times(folder)
        return Case(number, kind, sample, file)


def same_times(folder: Path) -> None:
    """Let no time tell which file was changed."""
    for path in folder.glob("ckpt/*"):
        if path.is_file() and not path.is_symlink():
            os.utime(path, (_TIME_S, _TIME_S))
