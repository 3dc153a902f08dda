"""Fault by fault: what `hsdp-inspect check` says beside what the installed torch's `dcp.load` does.

    python benchmarks/faults.py faults [--only WORD ...] [--out DIR]
    python benchmarks/faults.py fuzz [--first 0] [--count 3000] [--seed 1] [--log FILE]
    python benchmarks/faults.py fuzz --sum LOG ... [--out FILE]

Each fault is made in a copy of a sample. Then torch loads the copy, in a process of its own, into
tensors filled with poison, and every element is compared with what the intact sample holds; and
`hsdp-inspect check` judges it, without and with `--deep`, in processes of their own. Nothing in a
row is written by hand but the fault's name. Writes results/faults.md and results/faults.json.

Faults of the program that loads (a target of another shape or dtype, a key too few) are not here:
they are no faults of a checkpoint, and no look at one can tell them.

`fuzz`: thousands of damaged checkpoints, each of which must end in a verdict, in time, without a
traceback. `tests/helpers/fuzz` makes and judges them, and asks torch about those that exit 0. The
same seed gives the same mutations. With --log, a run that was stopped goes on where it was. Several
runs may go beside each other, each with numbers and a log of its own, and --sum adds them up; of a
number that was run again, after something was mended, the later result counts.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from measuring import RESULTS, ROOT, dispatch, machine, write
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

SAMPLES = ROOT / "sample_ckpts"
GOLDEN = ROOT / "tests" / "data" / "golden"
sys.path[:0] = [str(SAMPLES), str(ROOT)]

from maker import broken  # noqa: E402
from maker import editing as ed  # noqa: E402
from maker.broken import B1, B2, B3, W1  # noqa: E402

POISON = 0xA5
TIME = 1_700_000_000
LOAD_LIMIT_S = 20
MARKER = "a marker file"
#: The samples: HSDP 2 x 2 and 2 x 4 of plain tensors; FSDP 4 with optimizer and bytes entries.
SMALL, WIDE, TRAINED = "hsdp_2x2", "hsdp_2x4", "fsdp2_adamw_4"
STEP = "run/step-100"

State = dict[str, Any]
Make = Callable[[Path], object]


@dataclass(frozen=True)
class Fault:
    """A row: the fault, and how it is made.

    Attributes:
        what: The fault, in words.
        make: Makes it in a copy of the sample.
        base: The sample.
        truth: The checkpoint that tells what should be loaded; by default the base.
        load: How torch is asked.
        times: Seconds by which files are newer than `.metadata`.
    """

    what: str
    make: Make
    base: str | Path = SMALL
    truth: str | Path | None = None
    load: str = "load"
    times: dict[str, float] = field(default_factory=dict)


# -- how faults are made -----------------------------------------------------------------------


def both(*steps: Make) -> Make:
    """One after the other."""

    def make(folder: Path) -> None:
        for step in steps:
            step(folder)

    return make


def nothing(folder: Path) -> None:
    """Leaves the copy as it is."""


def flip_in_file(name: str, find: bytes, delta: int = 0) -> Make:
    """Turns the lowest bit of a byte: the one at `find`, or some after it."""

    def make(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(ed.flip_bit(data, data.index(find) + delta))

    return make


def flip_in_payload(find: bytes, delta: int = 0, last: bool = False) -> Make:
    """The same in the first payload of `net1.weight`."""

    def change(payload: bytes) -> bytes:
        at = payload.rindex(find) if last else payload.index(find)
        return ed.flip_bit(payload, at + delta)

    return broken.patched(change)


def flip_learning_rate(folder: Path) -> None:
    """Turns a bit of a float's mantissa in a bytes entry."""
    ed.patch_payload(folder, learning_rate(folder), 0, lambda p: ed.flip_bit(p, p.index(b"G?") + 5))


def learning_rate(folder: Path) -> str:
    """The name of a bytes entry with a float in it."""
    names = ed.metadata_of(folder).state_dict_metadata
    return next(fqn for fqn in names if fqn.endswith(".lr"))


def unstore_all(metadata: Metadata) -> None:
    """Takes away all storage entries of a tensor."""
    for index in [i for i in metadata.storage_data if i.fqn == B1]:
        del metadata.storage_data[index]


def no_planner_data(metadata: Metadata) -> None:
    metadata.planner_data = None


def drift(folder: Path) -> None:
    """The second replica's ranks (4 to 7) held other values when they saved: 1000 more."""
    for index, info in list(ed.metadata_of(folder).storage_data.items()):
        if int(info.relative_path.split("_")[2]) >= 4:
            siblings = [i for i in ed.metadata_of(folder).storage_data if i.fqn == index.fqn]
            number = sorted(tuple(i.offset) for i in siblings).index(tuple(index.offset))
            tensor = ed.load_payload(folder, index.fqn, number) + 1000
            ed.patch_payload(folder, index.fqn, number, lambda _, t=tensor: ed.saved(t))


def files_from(other: str, *names: str) -> Make:
    """Takes files of another sample."""

    def make(folder: Path) -> None:
        for name in names:
            shutil.copyfile(SAMPLES / other / name, folder / name)

    return make


def malicious_metadata(folder: Path) -> None:
    ed.edit(folder, lambda metadata: setattr(metadata, "trainer", Touches(folder / MARKER)))


def malicious_bytes(folder: Path) -> None:
    ed.patch_payload(folder, learning_rate(folder), 0, lambda _: ed.saved(Touches(folder / MARKER)))


class Touches:
    """Pickles as a call that leaves a marker file."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.marker}'",)


def fifo(folder: Path) -> None:
    (folder / "__1_0.distcp").unlink()
    os.mkfifo(folder / "__1_0.distcp")


def outside(folder: Path) -> None:
    """Moves a file out of the folder and lets the metadata follow."""
    shutil.copyfile(folder / "__0_0.distcp", folder.parent / "elsewhere.bin")
    ed.set_stored(folder, W1, relative_path="../elsewhere.bin")


def shrink(folder: Path) -> None:
    """Makes a chunk a row smaller than its payload, in the metadata."""
    ed.set_chunks(folder, W1, lambda c: c.__setitem__(1, ed.chunk([4, 0], [3, 5])))


def cut_elsewhere(folder: Path) -> None:
    """Puts the border of two chunks a row later than their payloads have it."""
    ed.move_chunk(folder, W1, 1, offsets=[5, 0], sizes=[3, 5])
    ed.set_chunks(folder, W1, lambda c: c.__setitem__(0, ed.chunk([0, 0], [5, 5])))


def _faults() -> dict[str, list[Fault]]:
    """The faults, by the heading of the table's part."""
    return {
        "The metadata file": [
            Fault("`.metadata` is missing", broken.remove(".metadata")),
            Fault(
                "only a complete `.metadata.tmp` (killed before the rename)",
                broken.rename(".metadata", ".metadata.tmp"),
            ),
            Fault("`.metadata` is empty", broken.write(".metadata", b"")),
            Fault("`.metadata` is cut short", broken.cut(".metadata", 0.67)),
            Fault(
                "a bit of a name in `.metadata` is turned",
                flip_in_file(".metadata", B1.encode(), 6),
            ),
            Fault("an LFS pointer instead", broken.write(".metadata", broken.LFS_POINTER)),
            Fault("a pickle bomb of 200 bytes", broken.write(".metadata", broken.bomb())),
            Fault("a pickle that runs a command", malicious_metadata),
            Fault("`planner_data` is None", broken.edited(no_planner_data)),
            Fault(
                "sound, written by torch 2.15",
                nothing,
                base=GOLDEN / "2.15.0" / "fsdp4",
                truth=GOLDEN / "2.14.1" / "fsdp4",
            ),
            Fault(
                "sound, written by torch 1.13",
                nothing,
                base=GOLDEN / "1.13.1" / "st_flat",
                truth=GOLDEN / "2.0.1" / "st_flat",
            ),
            Fault("an empty state dict", broken.without_payloads),
        ],
        "Tensors and chunks in the metadata": [
            Fault("a tensor is not in it", lambda f: ed.drop_entry(f, B1)),
            Fault(
                "the same, loaded with `allow_partial_load=True`",
                lambda f: ed.drop_entry(f, B1),
                load="partial",
            ),
            Fault("a tensor without storage entries", broken.edited(unstore_all)),
            Fault("a chunk is missing", lambda f: ed.drop_chunk(f, W1, 1)),
            Fault(
                "the same, by `dcp_to_torch_save`",
                lambda f: ed.drop_chunk(f, W1, 1),
                load="torch_save",
            ),
            Fault(
                "a tensor without chunks",
                both(lambda f: ed.drop_chunk(f, W1, 1), lambda f: ed.drop_chunk(f, W1, 0)),
            ),
            Fault(
                "an overlap and a gap of equal size",
                lambda f: ed.move_chunk(f, W1, 1, offsets=[3, 0], sizes=[4, 5]),
            ),
            Fault("a chunk listed twice", lambda f: ed.set_chunks(f, W1, lambda c: c.append(c[0]))),
            Fault(
                "a chunk out of bounds",
                lambda f: ed.move_chunk(f, W1, 1, offsets=[6, 0], sizes=[4, 5]),
            ),
            Fault("a chunk smaller than its payload", shrink),
            Fault("two chunks with another border than their payloads", cut_elsewhere),
            Fault("a tensor larger than its chunks", broken.edited(broken.larger)),
            Fault("a chunk of a negative size", broken.edited(broken.negative_size)),
            Fault("another dtype than the payloads'", broken.edited(broken.wrong_dtype)),
        ],
        "Where payloads lie": [
            Fault("two chunks of one shape swapped", broken.swap_pointers),
            Fault("a length 10 too large", longer(10)),
            Fault("a length past the file's end", longer(100_000, B3)),
            Fault("a byte offset 4 too large", shifted(4)),
            Fault("a path that leads out of the folder (`../`)", outside),
            Fault(
                "written with `SerializationFormat.SAFETENSORS`",
                broken.as_safetensors,
            ),
        ],
        "Files of several saves": [
            Fault(
                "two ranks' files swapped, of other layouts",
                broken.swap_files("__0_0.distcp", "__2_0.distcp"),
            ),
            Fault(
                "two ranks' files swapped, of one layout",
                broken.swap_files("__0_0.distcp", "__1_0.distcp"),
                base=WIDE,
            ),
            Fault(
                "one rank's file of another step, with its time",
                files_from("run/step-200", "__1_0.distcp"),
                base=STEP,
                times={"__1_0.distcp": 1800},
            ),
            Fault(
                "the same, copied without times",
                files_from("run/step-200", "__1_0.distcp"),
                base=STEP,
            ),
            Fault(
                "an overwrite in place in which a rank died",
                files_from("run/step-200", "__0_0.distcp"),
                base=STEP,
                times={"__0_0.distcp": 1.2},
            ),
            Fault(
                "files left from a save of more ranks",
                files_from(WIDE, *(f"__{rank}_0.distcp" for rank in range(4, 8))),
            ),
            Fault(
                "`.metadata` of 8 ranks over the data of 4",
                files_from(WIDE, ".metadata"),
            ),
            Fault(
                "the data of 8 ranks under `.metadata` of 4",
                files_from(WIDE, *(f"__{rank}_0.distcp" for rank in range(8))),
            ),
            Fault("replicas that had diverged when they saved", drift, base=WIDE),
        ],
        "Data files": [
            Fault("a data file is missing", broken.remove("__0_0.distcp")),
            Fault("the last byte is gone", cut_bytes(1)),
            Fault("half of it is gone", broken.cut("__0_0.distcp", 0.5)),
            Fault("it is empty", broken.write("__0_0.distcp", b"")),
            Fault("garbage after its end", broken.grow("__0_0.distcp", b"\xa5" * 100)),
            Fault("a FIFO in its place", fifo),
        ],
        "Stored bytes": [
            Fault("a bit of a tensor's elements is turned", broken.patched(broken.flip_data)),
            Fault("a bit of a learning rate is turned", flip_learning_rate, base=TRAINED),
            Fault("a payload of zeros", broken.patched(broken.zeroed)),
            Fault("a bit of a payload's pickle", flip_in_payload(b"_rebuild_tensor_v2", 1)),
            Fault(
                "a bit of a payload's zip directory",
                flip_in_payload(b"PK\x01\x02"),
            ),
            Fault("a bit of its `byteorder` record", flip_in_payload(b"little")),
            Fault("a bytes entry that runs a command", malicious_bytes, base=TRAINED),
        ],
    }


def longer(by: int, fqn: str = W1) -> Make:
    def make(folder: Path) -> None:
        _, _, length = ed.place(folder, fqn)
        ed.set_stored(folder, fqn, length=length + by)

    return make


def shifted(by: int) -> Make:
    def make(folder: Path) -> None:
        _, offset, _ = ed.place(folder, B2)
        ed.set_stored(folder, B2, offset=offset + by)

    return make


def cut_bytes(num: int) -> Make:
    def make(folder: Path) -> None:
        data = (folder / "__0_0.distcp").read_bytes()
        (folder / "__0_0.distcp").write_bytes(data[:-num])

    return make


# -- what torch does ---------------------------------------------------------------------------


def poisoned(truth: State) -> State:
    """Targets as `truth` has them, with no right value in them."""
    targets: State = {}
    for fqn, value in truth.items():
        if isinstance(value, torch.Tensor):
            targets[fqn] = torch.empty_like(value)
            targets[fqn].reshape(-1).view(torch.uint8).fill_(POISON)
        else:
            targets[fqn] = None
    return targets


@cache
def truth_of(base: str | Path) -> State:
    """What an intact checkpoint holds, as torch loads it."""
    folder = SAMPLES / base
    targets: State = {}
    for fqn, entry in ed.metadata_of(folder).state_dict_metadata.items():
        is_tensor = isinstance(entry, TensorStorageMetadata)
        targets[fqn] = torch.zeros(entry.size, dtype=entry.properties.dtype) if is_tensor else None
    dcp.load(targets, checkpoint_id=folder, no_dist=True)
    return targets


def num_wrong(found: object, expected: torch.Tensor) -> int:
    """Elements that are not bit for bit what they should be."""
    if not isinstance(found, torch.Tensor) or found.shape != expected.shape:
        return expected.numel()
    a, b = (t.contiguous().reshape(-1).view(torch.uint8).numpy() for t in (found, expected))
    size = expected.element_size()
    return int((a.reshape(-1, size) != b.reshape(-1, size)).any(axis=1).sum())


def load_and_compare(folder: Path, truth: State, how: str) -> dict[str, Any]:
    """Let torch load a checkpoint, and say what came of it."""
    targets = poisoned(truth)
    if how == "torch_save":
        out = folder.parent / "whole.pt"
        dcp_to_torch_save(folder, out)
        targets = flattened(torch.load(out, weights_only=False))
    else:
        planner = DefaultLoadPlanner(allow_partial_load=how == "partial")
        dcp.load(targets, checkpoint_id=folder, planner=planner, no_dist=True)
    tensors = {fqn: v for fqn, v in truth.items() if isinstance(v, torch.Tensor)}
    wrong = {fqn: num_wrong(targets.get(fqn), value) for fqn, value in tensors.items()}
    others = [
        f"{fqn}: {targets.get(fqn)!r} for {value!r}"
        for fqn, value in truth.items()
        if fqn not in tensors and repr(targets.get(fqn)) != repr(value)
    ]
    return {
        "outcome": "wrong" if any(wrong.values()) or others else "right",
        "num_wrong": sum(wrong.values()),
        "num_elements": sum(value.numel() for value in tensors.values()),
        "wrong_entries": others,
    }


def flattened(state: State, prefix: str = "") -> State:
    """Nested dicts as dotted names."""
    result: State = {}
    for key, value in state.items():
        if isinstance(value, dict):
            result |= flattened(value, f"{prefix}{key}.")
        else:
            result[f"{prefix}{key}"] = value
    return result


def child(folder: Path, truth: State, how: str, answer: Any) -> None:
    """What the loading process runs."""
    warnings.filterwarnings("ignore")
    with open(os.devnull, "w") as null:
        os.dup2(null.fileno(), 1)
        os.dup2(null.fileno(), 2)
    try:
        result = load_and_compare(folder, truth, how)
    except BaseException as error:  # CheckpointException is no Exception
        if isinstance(error, CheckpointException) and error.failures:
            error = next(iter(error.failures.values()))[0]
        text = " ".join(str(error).split()).replace(str(folder), "DIR")
        result = {"outcome": "raises", "error": type(error).__name__, "message": text}
    answer.send(result)
    answer.close()


def torch_does(folder: Path, fault: Fault) -> dict[str, Any]:
    """What torch does with a checkpoint, in a process that may hang or die."""
    truth = truth_of(fault.truth if fault.truth is not None else fault.base)
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=child, args=(folder, truth, fault.load, theirs))
    process.start()
    theirs.close()
    result: dict[str, Any] = {"outcome": "hangs", "after_s": LOAD_LIMIT_S}
    try:
        if ours.poll(LOAD_LIMIT_S):
            result = ours.recv()
    except EOFError:
        result = {"outcome": "dies"}
    process.kill()
    process.join()
    result["ran_code"] = (folder / MARKER).exists()
    (folder / MARKER).unlink(missing_ok=True)
    return result


# -- what check says ---------------------------------------------------------------------------


def check_says(folder: Path, *options: str) -> dict[str, Any]:
    """`hsdp-inspect check`, as a user runs it."""
    command = [sys.executable, "-m", "inspector", "check", str(folder), "--json", *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    document = json.loads(done.stdout)
    return {
        "exit": done.returncode,
        "verdict": document["verdict"],
        "findings": [[f["code"], f["severity"], f["num_elements"]] for f in document["findings"]],
        "torch_does": [f["torch_does"] for f in document["findings"]],
        "ran_code": (folder / MARKER).exists(),
    }


def row_of(fault: Fault) -> dict[str, Any]:
    """Make one fault, and ask both."""
    with tempfile.TemporaryDirectory(prefix="hsdp-faults-") as scratch:
        folder = Path(scratch, "ckpt")
        shutil.copytree(SAMPLES / fault.base, folder)
        fault.make(folder)
        for path in folder.iterdir():
            if path.is_file():
                later = TIME + fault.times.get(path.name, 0)
                os.utime(path, (later, later))
        return {
            "fault": fault.what,
            "check": check_says(folder),
            "deep": check_says(folder, "--deep"),
            "torch": torch_does(folder, fault),
        }


# -- the table ---------------------------------------------------------------------------------


def torch_cell(torch_did: dict[str, Any]) -> str:
    outcome = torch_did["outcome"]
    code = "**runs it**; " if torch_did["ran_code"] else ""
    if outcome == "raises":
        message = torch_did["message"].replace("|", "\\|").replace("`", "'")
        shown = message if len(message) <= 70 else message[:68].rstrip() + " …"
        return f"{code}raises `{torch_did['error']}`" + (f": {shown}" if shown else "")
    if outcome == "hangs":
        return f"{code}does not return (killed after {torch_did['after_s']} s)"
    if outcome == "dies":
        return f"{code}the process dies"
    if outcome == "right":
        return f"{code}loads, all values right"
    parts = []
    if torch_did["num_wrong"]:
        parts.append(f"{torch_did['num_wrong']:,} of {torch_did['num_elements']:,} elements wrong")
    parts += [entry.replace("|", "\\|") for entry in torch_did["wrong_entries"][:1]]
    more = len(torch_did["wrong_entries"]) - 1
    return f"{code}**loads silently**, {'; '.join(parts)}" + (
        f" and {more} more" if more > 0 else ""
    )


def codes_of(said: dict[str, Any]) -> list[str]:
    """The codes of a report: errors and warnings, or the notes if there is nothing else."""
    serious = [code for code, severity, _ in said["findings"] if severity != "note"]
    return list(dict.fromkeys(serious or [code for code, _, _ in said["findings"]]))


def check_cell(said: dict[str, Any], known: dict[str, Any] | None = None) -> str:
    if known is not None and codes_of(said) == codes_of(known):
        return "the same"
    codes = codes_of(said)
    if known is not None:
        codes = [code for code in codes if code not in codes_of(known)] or codes
    named = ", ".join(f"`{code}`" for code in codes) or "nothing"
    return f"{said['verdict']} ({said['exit']}): {named}"


def level(said: dict[str, Any]) -> str:
    """How loud a report is."""
    if said["exit"]:
        return "fails"
    serious = any(severity != "note" for _, severity, _ in said["findings"])
    return "warns" if serious else "passes"


def is_silent(row: dict[str, Any]) -> bool:
    """Whether torch went on as if nothing was wrong, with wrong values or code that ran."""
    outcome = row["torch"]["outcome"]
    return bool(outcome == "wrong" or (row["torch"]["ran_code"] and outcome == "right"))


def summary_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    silent = [row for row in rows if is_silent(row)]
    loud = [row for row in rows if row["torch"]["outcome"] in ("raises", "hangs", "dies")]

    def levels(some: list[dict[str, Any]], which: str) -> dict[str, int]:
        return {
            name: sum(level(row[which]) == name for row in some)
            for name in ("fails", "warns", "passes")
        }

    return {
        "faults": len(rows),
        "torch_is_silent": {
            "faults": len(silent),
            "check": levels(silent, "check"),
            "deep": levels(silent, "deep"),
        },
        "torch_raises_or_hangs": {
            "faults": len(loud),
            "check": levels(loud, "check"),
            "deep": levels(loud, "deep"),
        },
    }


def sentence(summary: dict[str, Any]) -> str:
    silent = summary["torch_is_silent"]
    plain, deep = silent["check"], silent["deep"]
    return (
        f"{summary['faults']} faults. {silent['faults']} of them torch loads without a word, with "
        "wrong values or by running code that the checkpoint names. Of these, `check` fails "
        f"{plain['fails']} and warns of {plain['warns']}; `check --deep` fails {deep['fails']} and "
        f"warns of {deep['warns']}; {deep['passes']} pass."
    )


def markdown(rows: list[dict[str, Any]], summary: dict[str, Any]) -> str:
    release = torch.__version__.partition("+")[0]
    heads = ("fault", f"`dcp.load` of torch {release}", "`hsdp-inspect check`", "with `--deep`")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    group = None
    for row in rows:
        if row["group"] != group:
            group = row["group"]
            lines.append(f"| **{group}** | | | |")
        cells = (
            row["fault"],
            torch_cell(row["torch"]),
            check_cell(row["check"]),
            check_cell(row["deep"], row["check"]),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", sentence(summary)]) + "\n"


def faults(told: list[str]) -> int:
    """Each fault: what `check` says beside what `dcp.load` does."""
    parser = argparse.ArgumentParser(description=faults.__doc__)
    parser.add_argument("--only", nargs="+", metavar="WORD", help="rows whose fault has a word")
    parser.add_argument("--out", type=Path, help="folder (default: results, if all rows are made)")
    options = parser.parse_args(told)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    chosen = [(group, fault) for group, faults in _faults().items() for fault in faults]
    if options.only:
        chosen = [(g, f) for g, f in chosen if any(word in f.what for word in options.only)]
    rows = []
    for group, fault in chosen:
        rows.append({"group": group, **row_of(fault)})
        print(
            f"{fault.what}: {torch_cell(rows[-1]['torch'])} || {check_cell(rows[-1]['check'])} || "
            f"{check_cell(rows[-1]['deep'], rows[-1]['check'])}",
            file=sys.stderr,
        )
    summary = summary_of(rows)
    table = markdown(rows, summary)
    print(table)
    if options.only and options.out is None:
        return 0
    out = options.out or RESULTS
    document = {
        "what": "each fault: dcp.load into poisoned targets, and hsdp-inspect check",
        "summary": summary,
        "rows": rows,
        "machine": machine(),
    }
    write(out / "faults.json", document)
    (out / "faults.md").write_text(table)
    return 0


def fuzz(told: list[str]) -> int:
    """Thousands of damaged checkpoints: each must end in a verdict, in time."""
    from tests.helpers.fuzz.runs import results, summed

    parser = argparse.ArgumentParser(description=fuzz.__doc__)
    parser.add_argument("--first", type=int, default=0, help="the first number")
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--numbers", type=int, nargs="+", help="these, again, whatever the log has")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--budget-s", type=float, default=float("inf"))
    parser.add_argument("--log", type=Path, help="a line for each mutation; read first if there")
    parser.add_argument("--sum", type=Path, nargs="+", metavar="LOG", help="run none: add logs up")
    parser.add_argument("--out", type=Path, default=RESULTS / "fuzz.json")
    options = parser.parse_args(told)
    warnings.filterwarnings("ignore")
    begin, commit = time.monotonic(), _commit()
    items = [json.loads(line) for log in options.sum or [] for line in log.open()]
    if options.log is not None and options.log.exists():
        items += [json.loads(line) for line in options.log.open()]
    if options.sum is None:
        done = {item["number"] for item in items}
        numbers = range(options.first, options.first + options.count)
        wanted = options.numbers or [number for number in numbers if number not in done]
        with options.log.open("a") if options.log is not None else nullcontext() as log:
            for item in results(wanted, options.seed, budget_s=options.budget_s):
                items.append({**item, "seed": options.seed, "commit": commit, "time": time.time()})
                if item["problem"]:
                    sys.stderr.write(f"{item}\n")
                if log is not None:
                    log.write(json.dumps(items[-1]) + "\n")
                    log.flush()
    document = {
        "what": "damaged checkpoints, seals and recordings, judged by the commands; torch beside",
        **summed(items),
        "machine": machine(),
    }
    if options.sum is None:
        document["elapsed_s"] = round(time.monotonic() - begin, 1)
    write(options.out, document)
    if options.out.parent == RESULTS:
        (RESULTS / "fuzz.md").write_text(fuzz_table(document))
    print(json.dumps({k: v for k, v in document.items() if k != "failures"}, indent=1))
    return 1 if document["failures"] else 0


def fuzz_table(found: dict[str, Any]) -> str:
    """What torch did with mutations, by what the commands said of them, and the sums."""
    columns = list(found["torch"])
    rows = sorted({told for by_torch in found["torch"].values() for told in by_torch})
    lines = [f"| torch | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for told in rows:
        numbers = [f"{found['torch'][column].get(told, 0):,}" for column in columns]
        lines.append(f"| {told} | {' | '.join(numbers)} |")
    codes = ", ".join(f"{num:,} ended with {code}" for code, num in found["exit_codes"].items())
    failures, mended = found["failures"], found["failed_once_and_mended"]
    commits = ", ".join(f"{num:,} by {commit}" for commit, num in found["commits"].items())
    words = (
        f"{found['mutations']:,} mutations of seed {', '.join(map(str, found['seeds']))} "
        f"({commits}): {codes}. {found['as_commands_too']:,} also ran as commands of their own. "
        f"{len(failures):,} failed; {len(mended):,} had failed before something was mended, and "
        "were run again. What exits 0 was all given to torch, of the damaged and unreadable one in "
        "ten."
    )
    return "\n".join([*lines, "", words, ""])


def _commit() -> str:
    """What the mutations are judged by, `+` for a tree that was edited since; empty if unknown."""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=12", "--exclude=*"]
    done = subprocess.run([*git, "--dirty=+"], capture_output=True, text=True, check=False)
    return done.stdout.strip()


SUBJECTS = {"faults": faults, "fuzz": fuzz}

if __name__ == "__main__":
    dispatch(__doc__ or "", SUBJECTS)
