"""Kinds of damage, and what `repair` does about each: planted, repaired and compared for real.

`python -m tests.helpers.repair_table` runs all of them and writes the table of `docs/repair.md`; it
stops at the first that is not as it is said here.
"""

from __future__ import annotations

import os
import pickle
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict_from_keys

from inspector.repair.run import RepairReport, RepairRequest, repair
from inspector.report.progress import PayloadLine
from sample_ckpts.maker import editing as ed
from tests.conftest import ROOT, SAMPLES

PAGE = ROOT / "docs" / "repair.md"
HSDP, RUN = "hsdp_2x2", "run/step-200"
W1, B2, B3 = "model.net1.weight", "model.net2.bias", "model.net3.bias"
MOMENT = "optimizer.state.tok_embeddings.weight.exp_avg"

Outcome = Literal["yes", "--allow-likely", "--like", "--from", "no"]


@dataclass(frozen=True)
class Damage:
    """One kind of damage.

    Attributes:
        name: A word for it.
        about: What is wrong, for the table.
        make: Plants it in a copy of the sample.
        outcome: What repairs it: nothing more than the command, an option, or nothing.
        base: The sample; `uneven` or `twins` for one that is made here.
        why_not: Of what is not repaired: a part of the reason that is told.
    """

    name: str
    about: str
    make: Callable[[Path], object]
    outcome: Outcome
    base: str = HSDP
    why_not: str = ""


def loaded(folder: Path) -> dict[str, Any]:
    """All that torch loads of a checkpoint, by flat name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = _load_state_dict_from_keys(checkpoint_id=str(folder))
    return dict(_flat(state, ""))


def _flat(state: Mapping[str, Any], prefix: str) -> Any:
    for key, value in state.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def difference(a: Mapping[str, Any], b: Mapping[str, Any]) -> set[str]:
    """Names of entries that are not bit for bit the same, or in one alone."""
    found = set(a) ^ set(b)
    for name in set(a) & set(b):
        one, other = a[name], b[name]
        if isinstance(one, torch.Tensor):
            same = one.dtype == other.dtype and torch.equal(one, other)
        else:
            same = pickle.dumps(one) == pickle.dumps(other)
        if not same:
            found.add(name)
    return found


# -- how damage is planted ---------------------------------------------------------------------


def craft(
    folder: Path,
    shape: tuple[int, ...],
    pieces: list[tuple[str, tuple[int, ...], torch.Tensor]],
    names: tuple[str, ...] = ("w",),
) -> None:
    """A checkpoint of tensors of one shape, each piece in a file: (file, offsets, elements)."""
    folder.mkdir(parents=True)
    stored, ends = {}, dict.fromkeys((file for file, _, _ in pieces), b"")
    for number, fqn in enumerate(names):
        for file, offsets, piece in pieces:
            payload = ed.saved(piece + 100 * number)
            index = MetadataIndex(fqn, torch.Size(offsets))
            stored[index] = _StorageInfo(file, len(ends[file]), len(payload))
            ends[file] += payload
    for file, data in ends.items():
        (folder / file).write_bytes(data)
    chunks = [ChunkStorageMetadata(torch.Size(o), piece.shape) for _, o, piece in pieces]
    entry = TensorProperties(dtype=torch.float32)
    state = {fqn: TensorStorageMetadata(entry, torch.Size(shape), list(chunks)) for fqn in names}
    metadata = Metadata(state, planner_data={fqn: (fqn,) for fqn in names}, storage_data=stored)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))


def _uneven(folder: Path) -> None:
    """One row and three."""
    rows = torch.arange(16.0).reshape(4, 4)
    pieces = [
        ("__0_0.distcp", (0, 0), rows[:1].clone()),
        ("__1_0.distcp", (1, 0), rows[1:].clone()),
    ]
    craft(folder, (4, 4), pieces)


def _twins(folder: Path) -> None:
    """Two ranks whose files look the same, with two tensors that look the same."""
    rows = torch.arange(16.0).reshape(4, 4)
    pieces = [
        ("__0_0.distcp", (0, 0), rows[:2].clone()),
        ("__1_0.distcp", (2, 0), rows[2:].clone()),
    ]
    craft(folder, (4, 4), pieces, ("a", "b"))


def _halves(folder: Path) -> None:
    """The boxes that `DTensor.from_local` records of one row and three."""
    ed.move_chunk(folder, "w", 0, offsets=[0, 0], sizes=[2, 4])
    ed.move_chunk(folder, "w", 1, offsets=[2, 0], sizes=[2, 4])


def _renamed(old: str, new: str) -> Callable[[Path], object]:
    return lambda folder: (folder / old).rename(folder / new)


def _exchanged(a: str, b: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / a).rename(folder / "x")
        (folder / b).rename(folder / a)
        (folder / "x").rename(folder / b)

    return make


def _shifted(folder: Path) -> None:
    path = folder / "__0_0.distcp"
    path.write_bytes(b"\xa5" * 512 + path.read_bytes())


def _absolute(folder: Path) -> None:
    def change(metadata: Metadata) -> None:
        for info in metadata.storage_data.values():
            info.relative_path = f"/scratch/old/run/{info.relative_path}"

    ed.edit(folder, change)


def _twins_lost(folder: Path) -> None:
    """Both payloads of one file are said to begin where none begins."""
    ed.set_stored(folder, "a", 0, offset=10, length=20)
    ed.set_stored(folder, "b", 0, offset=40, length=20)


def _moved_key(folder: Path) -> None:
    """The storage entry of a chunk is under another chunk's box."""

    def change(metadata: Metadata) -> None:
        index = ed.index_of(metadata, W1, 1)
        info = metadata.storage_data.pop(index)
        metadata.storage_data[MetadataIndex(W1, torch.Size([5, 0]))] = info

    ed.edit(folder, change)


def _without_metadata(folder: Path) -> None:
    (folder / ".metadata").unlink()


def _cut(name: str, keep: int) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[:keep])

    return make


def _negative(fqn: str) -> Callable[[Path], None]:
    def change(metadata: Metadata) -> None:
        entry = metadata.state_dict_metadata[fqn]
        entry.chunks[1].sizes = torch.Size([-4, *entry.chunks[1].sizes[1:]])

    return lambda folder: ed.edit(folder, change)


def _flipped(fqn: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        ed.patch_payload(folder, fqn, 0, lambda b: ed.flip_bit(b, ed.data_start(b) + 7))

    return make


def _empty_beside_tmp(folder: Path) -> None:
    shutil.copy(folder / ".metadata", folder / ".metadata.tmp")
    (folder / ".metadata").write_bytes(b"")


def _larger(folder: Path) -> None:
    ed.edit(folder, lambda m: setattr(m.state_dict_metadata[W1], "size", torch.Size([10, 5])))


def _sample(name: str) -> Callable[[Path], None]:
    """The damage of a broken sample, which is a copy of its base."""

    def make(folder: Path) -> None:
        shutil.rmtree(folder)
        shutil.copytree(SAMPLES / "broken" / name, folder)

    return make


D = Damage
DAMAGES: tuple[Damage, ...] = (
    D("metadata-tmp", "`.metadata.tmp` is whole and was never renamed",
      _renamed(".metadata", ".metadata.tmp"), "yes"),
    D("metadata-dot", "`.metadata` lost its dot in a copy",
      _renamed(".metadata", "metadata"), "yes"),
    D("metadata-beside", "`.metadata` is empty, a whole `.metadata.tmp` beside it",
      _empty_beside_tmp, "yes"),
    D("range-short", "a payload said to be 60 bytes long", _sample("range_short"), "yes"),
    D("range-long", "a payload said to reach past its file's end",
      lambda f: ed.set_stored(f, B3, 0, length=1 << 20), "yes"),
    D("range-early", "a payload said to begin 800 bytes early",
      _sample("byte_ranges_overlap"), "yes"),
    D("range-shift", "512 bytes before the first payload of a file, all offsets wrong",
      _shifted, "yes"),
    D("range-twins", "two payloads of one dtype and shape, both offsets lost", _twins_lost,
      "--allow-likely", "twins", "nothing tells"),
    D("box-outside", "a chunk said to begin two rows late", _sample("chunk_out_of_bounds"), "yes"),
    D("box-uneven", "shards of 1 and 3 rows recorded as 2 and 2", _halves, "yes", "uneven"),
    D("box-overlap", "a chunk said to begin a row early: one row twice, one never",
      _sample("chunk_overlap_and_gap"), "--allow-likely", why_not="could be true"),
    D("chunk-twice", "a chunk listed twice", _sample("chunk_duplicate"), "yes"),
    D("dtype", "float32 payloads that the metadata calls int32", _sample("payload_dtype"), "yes"),
    D("path-parent", "a payload said to lie in `../../hsdp_2x2`", _sample("path_parent"), "yes"),
    D("path-absolute", "every payload said to lie below `/scratch/old/run`", _absolute, "yes"),
    D("files-exchanged", "two ranks' files exchanged, which hold other shapes",
      _exchanged("__0_0.distcp", "__2_0.distcp"), "yes"),
    D("file-renamed", "a data file with `.bak` behind its name",
      _renamed("__2_0.distcp", "__2_0.distcp.bak"), "--allow-likely", why_not="another save"),
    D("file-rank", "a data file under the name of a rank that there is not",
      _renamed("__0_0.distcp", "__7_0.distcp"), "--allow-likely", RUN, "another save"),
    D("files-twins", "two files of the same layout, both renamed",
      lambda f: (_renamed("__0_0.distcp", "a.distcp")(f), _renamed("__1_0.distcp", "b.distcp")(f)),
      "no", "twins", "which is which"),
    D("chunk-gone", "a chunk and its storage entry gone from the metadata", _sample("chunk_gap"),
      "--allow-likely", why_not="nothing proves"),
    D("chunk-unstored", "a chunk without its storage entry", _sample("chunk_unstored"),
      "--allow-likely", why_not="nothing proves"),
    D("storage-key", "a storage entry under another box than its chunk's", _moved_key, "yes"),
    D("metadata-gone", "no `.metadata`", _without_metadata, "--like", RUN, "no .metadata"),
    D("metadata-cut", "half a `.metadata`", _cut(".metadata", 9000), "--like", RUN, "too early"),
    D("metadata-zero", "a `.metadata` of zeros",
      lambda f: (f / ".metadata").write_bytes(bytes(19156)), "--like", RUN, "zeros"),
    D("entry-negative", "a chunk of -4 rows", _negative(MOMENT), "--like", RUN, "negative"),
    D("metadata-mesh", "no `.metadata`, and the file of a rank as well",
      lambda f: (_without_metadata(f), (f / "__1_0.distcp").unlink()),
      "no", RUN, "no .metadata"),
    D("bit-flip", "one bit of a tensor's elements turned",
      _flipped(MOMENT), "--from", RUN, "CRC32"),
    D("file-gone", "a data file gone",
      lambda f: (f / "__0_0.distcp").unlink(), "--from", RUN, "is not there"),
    D("file-empty", "a data file of no bytes",
      _cut("__0_0.distcp", 0), "--from", RUN, "no payload"),
    D("file-cut", "a data file cut short", _cut("__0_0.distcp", 9000), "--from", RUN, "no intact"),
    D("payload-zeroed", "a payload of zeros",
      lambda f: ed.patch_payload(f, MOMENT, 0, lambda b: bytes(len(b))),
      "--from", RUN, "no intact"),
    D("tensor-larger", "a tensor of 10 rows by the metadata, of which 8 were saved", _larger,
      "no", why_not="no chunk"),
    D("payload-unsafe", "a bytes entry that names code to be run", _sample("payload_unsafe"),
      "no", why_not="names code"),
    D("metadata-unsafe", "`.metadata` names code to be run", _sample("metadata_unsafe"),
      "no", why_not="names code"),
    D("blob", "safetensors blobs in `.distcp` files", _sample("safetensors_blob"), "no",
      why_not="no payload that can be told"),
    D("rank-metadata", "per-rank metadata, that of a rank gone", _sample("rank_metadata_missing"),
      "no", "per_rank_metadata_2", "each rank wrote"),
)  # fmt: skip
BY_NAME = {damage.name: damage for damage in DAMAGES}


@dataclass(frozen=True)
class Tried:
    """What came of one kind of damage.

    Attributes:
        codes: Codes of the errors that `check --deep` found, most severe first.
        alone: `repair` without an option.
        helped: With the option that it takes, or None.
        different: Entries whose values are not those of the intact checkpoint.
    """

    codes: tuple[str, ...]
    alone: RepairReport
    helped: RepairReport | None
    different: frozenset[str]


def attempt(damage: Damage, work: Path) -> Tried:
    """Plant a damage, repair it, load what comes of it.

    Args:
        damage: Which.
        work: A folder for it, which is empty.
    """
    run, good = work / "run", work / "good"
    run.mkdir()
    if damage.base in ("uneven", "twins"):
        {"uneven": _uneven, "twins": _twins}[damage.base](good)
    else:
        shutil.copytree(SAMPLES / damage.base, good)
    bad = run / "step-200"
    shutil.copytree(good, bad)
    damage.make(bad)
    before = contents(bad)
    options: dict[Outcome, dict[str, Any]] = {
        "--allow-likely": {"likely": True},
        "--like": {"like": str(SAMPLES / "run" / "step-100")},
        "--from": {"older": str(SAMPLES / "run" / "step-100")},
    }
    alone = _run(bad, work / "alone")
    last, helped, out = alone, None, work / "alone"
    if damage.outcome in options:
        assert not out.exists(), "it is written without the option"
        out = work / "helped"
        last = helped = _run(bad, out, **options[damage.outcome])
    different: set[str] = set()
    if last.verdict == "repaired":
        different = difference(loaded(out), loaded(good))
    assert out.exists() == (last.verdict == "repaired")
    assert contents(bad) == before, "the inspected folder was written to"
    assert not list(work.glob("*.repair-tmp")), "something was left behind"
    errors = [f.code for f in alone.before.findings if f.severity == "error"]
    return Tried(tuple(dict.fromkeys(errors)), alone, helped, frozenset(different))


def _run(path: Path, out: Path, **options: Any) -> RepairReport:
    request = RepairRequest(str(out), python=sys.executable, **options)
    return repair(str(path), request, lambda: PayloadLine(sys.stderr))


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of all files below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def check_outcome(damage: Damage, tried: Tried) -> None:
    """Raise AssertionError if a damage is not repaired as the table says."""
    final = tried.helped or tried.alone
    reasons = " ".join(item.why for item in tried.alone.plan.unrepaired)
    assert tried.codes, "check did not tell of it"
    if damage.outcome == "no":
        assert final.verdict == "not-repaired" and final.exit_code in (1, 2)
    else:
        assert final.verdict == "repaired" and final.exit_code == 0, final.plan.unrepaired
        assert final.after is not None and final.after.verdict == "sound"
        bases = {step.basis for step in final.plan.steps}
        wanted = {
            "yes": {"proven"}, "--allow-likely": {"likely"}, "--like": {"like"},
            "--from": {"from"},
        }  # fmt: skip
        assert bases == wanted[damage.outcome]
    taken = {step.fqn for step in final.plan.steps if step.basis == "from"}
    assert tried.different <= taken, f"values of {tried.different - taken} are not the intact ones"
    if damage.outcome != "yes":
        assert tried.alone.verdict == "not-repaired"
        assert damage.why_not in reasons, reasons


_BEGIN, _END = "<!-- table -->\n", "<!-- end -->\n"
_HEAD = "\n| damage | told | repaired by | values |\n|---|---|---|---|\n"


def row(damage: Damage, tried: Tried) -> str:
    """A damage's line of the table."""
    codes = ", ".join(f"`{code}`" for code in tried.codes)
    final = tried.helped or tried.alone
    how = {"yes": "`repair`", "no": "not"}.get(damage.outcome, f"`{damage.outcome}`")
    values = "equal"
    if damage.outcome == "no":
        values = ""
    elif tried.different or damage.outcome == "--from":
        taken = {step.fqn for step in final.plan.steps if step.basis == "from"}
        values = f"{len(taken)} of the older step, the rest equal"
    return f"| {damage.about} | {codes} | {how} | {values} |"


def page(rows: list[str]) -> str:
    """The text of the page with these rows in its table."""
    before, rest = PAGE.read_text(encoding="utf-8").split(_BEGIN)
    _, after = rest.split(_END)
    return "".join([before, _BEGIN, _HEAD, *(f"{line}\n" for line in rows), "\n", _END, after])


def main() -> None:
    """Try all of them and write the table."""
    rows = []
    for damage in DAMAGES:
        with tempfile.TemporaryDirectory() as work:
            tried = attempt(damage, Path(work))
            sys.stderr.write(f"{damage.name}\n")
            check_outcome(damage, tried)
            rows.append(row(damage, tried))
    PAGE.write_text(page(rows), encoding="utf-8")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
