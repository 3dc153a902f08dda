"""Every finding code: a checkpoint that has it, and one that has not.

What git can carry is in `sample_ckpts/broken`; links, permissions and file times are made here.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest

from inspector.checks.findings import CODES, Report
from inspector.checks.judge import check
from inspector.checks.payload.payloads import check_payloads
from sample_ckpts.maker import editing as ed
from tests.conftest import (
    GOLDEN,
    SAMPLES,
    folders_with_metadata,
    of_few_versions,
    run_cli,
    run_python,
    some_fast,
)

BROKEN = SAMPLES / "broken"
EXPECTED: dict[str, dict[str, Any]] = json.loads((BROKEN / "expected.json").read_text())
OPTIONS = ("", "--deep", "--values")

NAMES_ARE_HOSTILE = "names_hostile_1"


def judged(folder: Path, option: str = "") -> Report:
    """What `check` says, with `--deep` or `--values` or neither."""

    assert option in OPTIONS
    deep = partial(check_payloads, values=option == "--values")
    return check(str(folder), deep=deep if option else None)


@cache
def codes_of_sample(path: str, option: str) -> frozenset[str]:
    return frozenset(f.code for f in judged(SAMPLES / path, option).findings)


def codes(report: Report) -> set[str]:
    return {finding.code for finding in report.findings}


# -- what git can carry ------------------------------------------------------------------------


@pytest.mark.parametrize("name", some_fast(EXPECTED, [n for n in EXPECTED if "bomb" not in n]))
def test_a_broken_sample_is_judged_as_it_should_be(name: str) -> None:
    expected = EXPECTED[name]
    must, may = set(expected["must"]), set(expected["may"])
    report = judged(BROKEN / name, expected["needs"])
    assert must <= codes(report) <= must | may
    assert report.verdict == expected["verdict"]
    assert report.exit_code == expected["exit"]
    for finding in report.findings:
        assert finding.torch_does
        assert finding.hint or finding.severity == "note"
    # The good sample that it was made of has none of it.
    assert not must & codes_of_sample(expected["base"], expected["needs"])


@pytest.mark.parametrize("name", ["chunk_gap", "bit_flip", "metadata_unsafe", "empty", "paddle"])
def test_the_command_says_the_same(name: str) -> None:
    expected = EXPECTED[name]
    ran = run_cli("check", BROKEN / name, "--json", *filter(None, [expected["needs"]]))
    document = ran.json()
    assert ran.code == expected["exit"]
    assert document["verdict"] == expected["verdict"]
    assert {f["code"] for f in document["findings"]} >= set(expected["must"])


def test_the_script_makes_the_broken_samples_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    written = json.loads((SAMPLES / "expected.json").read_text())["hsdp_2x2"]["torch"]
    if torch.__version__.partition("+")[0] != written.partition("+")[0]:
        pytest.skip("another torch pickles other bytes")
    monkeypatch.syspath_prepend(str(SAMPLES))
    from maker.broken import check_broken, write_broken

    assert check_broken(BROKEN) == []
    for sample in {record["base"] for record in EXPECTED.values()} | {"hsdp_2x4"}:
        shutil.copytree(SAMPLES / sample, tmp_path / sample)
    write_broken(tmp_path, tmp_path / "broken")
    assert contents(tmp_path / "broken") == contents(BROKEN)


def contents(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


# -- links, permissions and times --------------------------------------------------------------

T = 1_700_000_000
Make = Callable[[Path, pytest.MonkeyPatch], object]


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """A sound checkpoint of 2 x 2 ranks whose files are all of one time."""
    return copy_of("hsdp_2x2", tmp_path / "ckpt")


def copy_of(sample: str, folder: Path) -> Path:
    shutil.copytree(SAMPLES / sample, folder)
    set_times(folder)
    return folder


def set_times(folder: Path, **times: float) -> None:
    """Gives all files one time, but those named: `r1=5` is rank 1's, 5 s later."""
    for path in folder.iterdir():
        if path.is_file():
            os.utime(path, (T, T))
    for rank, seconds in times.items():
        os.utime(folder / f"__{rank[1:]}_0.distcp", (T, T + seconds))


def linked(folder: Path, target: Path | str) -> None:
    (folder / "__1_0.distcp").unlink()
    (folder / "__1_0.distcp").symlink_to(target)


def link_outside(folder: Path) -> None:
    shutil.move(folder / "__1_0.distcp", folder.parent / "elsewhere")
    (folder / "__1_0.distcp").symlink_to(folder.parent / "elsewhere")


def fifo(folder: Path) -> None:
    (folder / "__1_0.distcp").unlink()
    os.mkfifo(folder / "__1_0.distcp")


def metadata_fifo(folder: Path) -> None:
    (folder / ".metadata").unlink()
    os.mkfifo(folder / ".metadata")


def an_empty_folder(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def rename_tmp(folder: Path) -> None:
    (folder / ".metadata").rename(folder / ".metadata.tmp")


def leftovers_of_more_ranks(folder: Path) -> None:
    for rank in range(4, 8):
        shutil.copyfile(SAMPLES / "hsdp_2x4" / f"__{rank}_0.distcp", folder / f"__{rank}_0.distcp")
    set_times(folder, r4=-3600, r5=-3600, r6=-3600, r7=-3600)


def overwrite_that_died(folder: Path) -> None:
    """Ranks 0, 1 and 3 have written their files of the next step, rank 2 has not."""
    set_times(folder, r0=1.2, r1=1.21, r3=1.2)


def a_file_of_another_step(folder: Path) -> None:
    set_times(folder, r2=1800)


def older_file_of_another_step(folder: Path) -> None:
    set_times(folder, r2=-7200)


MADE: dict[str, tuple[Callable[[Path], object], str, str, str]] = {
    # what is done: (to the checkpoint, code, severity, verdict)
    "a dangling link": (lambda f: linked(f, "gone"), "file-missing", "error", "damaged"),
    "a loop of links": (lambda f: linked(f, "__1_0.distcp"), "file-unreadable", "error", "damaged"),
    "a FIFO": (fifo, "file-unreadable", "error", "damaged"),
    "a FIFO as metadata": (metadata_fifo, "metadata-unreadable", "error", "unreadable"),
    "a link that leads outside": (link_outside, "path-escapes", "warning", "sound"),
    "an empty folder": (an_empty_folder, "metadata-missing", "error", "unreadable"),
    "a whole .metadata.tmp": (rename_tmp, "save-unfinished", "error", "unreadable"),
    "files of an earlier save": (leftovers_of_more_ranks, "file-unreferenced", "warning", "sound"),
    "an overwrite that died": (overwrite_that_died, "file-newer", "warning", "sound"),
    "a newer file": (a_file_of_another_step, "file-newer", "warning", "sound"),
    "an older file": (older_file_of_another_step, "file-newer", "warning", "sound"),
}


@pytest.mark.parametrize("what", MADE)
@pytest.mark.parametrize("option", ["", "--deep"])
def test_what_git_cannot_carry(good: Path, what: str, option: str) -> None:
    make, code, severity, verdict = MADE[what]
    assert code not in codes(judged(good, option))
    make(good)
    begin = time.monotonic()
    report = judged(good, option)
    assert time.monotonic() - begin < 120
    assert (code, severity) in {(f.code, f.severity) for f in report.findings}
    assert report.verdict == verdict


def test_who_is_out_of_step(good: Path) -> None:
    overwrite_that_died(good)
    (finding,) = judged(good).findings
    assert (finding.code, finding.file) == ("file-newer", "__2_0.distcp")
    assert "out of step: rank 2" in finding.message
    leftovers_of_more_ranks(good)
    report = judged(good)
    assert [f.file for f in report.findings] == [f"__{rank}_0.distcp" for rank in range(4, 8)]
    assert "more ranks" in report.findings[0].message


def test_two_rank_files_exchanged(good: Path) -> None:
    """In hsdp_2x4 ranks 0 and 1 have payloads of one shape each, in the same order."""
    alike = copy_of("hsdp_2x4", good.parent / "alike")
    for folder, a, b, code in ((good, 0, 2, "payload-mismatch"), (alike, 0, 1, None)):
        one, other = folder / f"__{a}_0.distcp", folder / f"__{b}_0.distcp"
        first, second = one.read_bytes(), other.read_bytes()
        one.write_bytes(second)
        other.write_bytes(first)
        set_times(folder)
        report = judged(folder, "--deep")
        # Where the layouts agree, the bytes are those of a sound checkpoint and nothing can tell.
        assert (code in codes(report)) if code else (codes(report) == set())


def test_one_ranks_file_of_another_step(tmp_path: Path) -> None:
    folder = tmp_path / "step-100"
    shutil.copytree(SAMPLES / "run" / "step-100", folder)
    shutil.copyfile(SAMPLES / "run" / "step-200" / "__1_0.distcp", folder / "__1_0.distcp")
    set_times(folder)
    assert codes(judged(folder, "--deep")) == set()  # Only its time can give it away.
    set_times(folder, r1=1800)
    (finding,) = judged(folder).findings
    assert (finding.code, finding.file) == ("file-newer", "__1_0.distcp")


NOBODY = """
import os, sys
from inspector.checkpoint.dcp import read_dcp
from inspector.checkpoint.storage.opening import open_storage
from inspector.checks.judge import judge
from inspector.checks.payload.payloads import check_payloads

def codes():
    return sorted({f.code for f in judge(checkpoint, storage, deep=deep).findings})

storage = open_storage(sys.argv[1])
checkpoint = read_dcp(storage)
deep = check_payloads if sys.argv[2:] else None
before = codes()
# Only now, as nobody else may be able to read the interpreter.
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
print(before, codes())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become nobody")
@pytest.mark.parametrize("option", ["", "--deep"])
def test_a_file_that_may_not_be_read(option: str) -> None:
    # Not under pytest's own folder, which nobody else may enter.
    folder = Path("/tmp", f"hsdp-inspect-nobody-{os.getpid()}")
    try:
        copy_of("hsdp_2x2", folder)
        folder.chmod(0o755)
        for path in folder.iterdir():
            path.chmod(0o600 if path.name == "__1_0.distcp" else 0o644)
        done = run_python("-c", NOBODY, str(folder), *filter(None, [option]))
        expected = ["file-unreadable", *(["payload-unreadable"] if option else [])]
        assert done.out in (f"[] {expected}\n", "[] ['file-unreadable']\n"), done.err
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# -- fields of a payload's zip, found by comparing the fuzzer's sound ones with torch ------------

#: Of a directory entry: offset and value.
ZIP_FIELDS = {
    "marked as a folder": (38, 0x10),
    "of a second disk": (34, 7),
    "encrypted": (8, 0x09),
    "strongly encrypted": (8, 0x48),
    "with a masked header": (9, 0x28),
    "a patch": (8, 0x28),
}


@pytest.mark.parametrize("record", ["data.pkl", "data/0"])
@pytest.mark.parametrize("what", ZIP_FIELDS)
def test_a_zip_field_that_torch_minds(good: Path, what: str, record: str) -> None:
    import torch.distributed.checkpoint as dcp

    at, value = ZIP_FIELDS[what]
    path = good / "__0_0.distcp"
    data = bytearray(path.read_bytes())
    # The first directory entry with this name, whose name comes 46 bytes after its signature.
    name = f"archive/{record}".encode()
    entry = data.index(b"PK\x01\x02")
    while data[entry + 46 : entry + 46 + len(name)] != name:
        entry = data.index(b"PK\x01\x02", entry + 4)
    data[entry + at] = value
    path.write_bytes(data)
    set_times(good)
    report = judged(good, "--deep")
    (finding,) = report.findings
    assert finding.code == "payload-unreadable"
    assert finding.fqn == "model.net1.weight"
    # torch raises, or leaves what was there before.
    import torch

    target = torch.full((8, 5), 12345.0)
    try:
        dcp.load({"model.net1.weight": target}, checkpoint_id=good, no_dist=True)
    except BaseException as error:  # CheckpointException is no Exception
        assert type(error).__name__ == "CheckpointException"
    else:
        whole = torch.full((8, 5), 12345.0)
        sample = SAMPLES / "hsdp_2x2"
        dcp.load({"model.net1.weight": whole}, checkpoint_id=sample, no_dist=True)
        assert not torch.equal(target, whole)
        assert "silently" in finding.torch_does


# -- what is fine ------------------------------------------------------------------------------

GOOD = [
    *folders_with_metadata(GOLDEN),
    *folders_with_metadata(SAMPLES),
    SAMPLES / "per_rank_metadata_2",
]
#: Goldens that the torch this project pins cannot read, and the note that says so.
NOTED = {"1.13.1": "metadata-version", "2.15.0": "metadata-version"}


@pytest.mark.parametrize("folder", of_few_versions(GOOD), ids=lambda p: "/".join(p.parts[-2:]))
def test_good_checkpoints_are_sound(folder: Path) -> None:
    report = judged(folder, "--values")
    assert report.verdict == "sound"
    assert report.exit_code == 0
    assert report.checked.payloads
    assert {left.what for left in report.checked.not_checked} <= {"any chunk"}
    expected = {"name-unprintable"} if folder.name == NAMES_ARE_HOSTILE else set()
    if folder.name == "dtypes_4":
        expected = codes(report) & {"values-nan", "values-inf"}  # All patterns of the fp8 types.
    assert {f.code for f in report.findings if f.severity != "note"} == expected
    notes = {f.code for f in report.findings if f.severity == "note"}
    # Sharded tensors of FSDP 1, whole: what their class does with its state is its own.
    of_class = {"payload-unproven"} if folder.name == "st_nested" else set()
    assert notes <= {"metadata-version"} | of_class


@pytest.mark.parametrize("version", NOTED)
def test_what_the_installed_torch_cannot_read_is_told(version: str) -> None:
    import torch

    if not torch.__version__.startswith("2.13."):
        pytest.skip("of another torch the notes differ")
    ran = run_cli("check", GOLDEN / version / "st_nested", "--json")
    document = ran.json()
    assert ran.code == 0
    assert document["verdict"] == "sound"
    (finding,) = document["findings"]
    assert (finding["code"], finding["severity"]) == (NOTED[version], "note")
    assert "cannot read" in finding["message"]
    assert "raises" in finding["torch_does"]


def test_every_code_fires_and_is_silent_somewhere() -> None:
    fires = {code for record in EXPECTED.values() for code in record["must"]}
    fires |= {code for _, code, _, _ in MADE.values()}
    # Those of seals and of integrity.json are in tests/cli/test_seal.py.
    fires |= {code for code in CODES if code.startswith(("seal-", "integrity-"))}
    # Those of steps, of several checkpoints and what is beside them, are in test_steps.py.
    fires |= {"part-missing", "part-damaged", "not-resumable", "tracker-mismatch", "sidecar-times"}
    # These need several ranks' saves: test_shapes.py, test_replicas.py.
    fires |= {"local-state", "family-hole", "alias-shape", "replicas-differ"}
    # Those of tensor classes, foreign objects and steps are in tests/checks/test_packed.py.
    fires |= {"packed-tensor", "payload-foreign-class", "step-mismatch"}
    # tests/checkpoint/test_unproven.py
    fires |= {"payload-unproven"}
    assert fires == set(CODES)
    # Each of them is absent from the base of its sample, and from every good checkpoint but these.
    told_of_good = {"name-unprintable", "values-nan", "values-inf", "metadata-version"}
    bases = {code for r in EXPECTED.values() for code in codes_of_sample(r["base"], "--values")}
    assert not bases & told_of_good


def test_the_contracts_table_is_the_codes() -> None:
    """Severities as the contract has them; a second one is told of in the contract too."""
    assert {code for code, severity in CODES.items() if severity == "note"} == {
        "metadata-unknown-class", "metadata-trailing-bytes", "metadata-version", "file-leftover",
        "bytes-unreferenced", "payload-format", "payload-no-checksum",
        "packed-tensor", "payload-foreign-class", "payload-unproven",
    }  # fmt: skip
    assert {code for code, severity in CODES.items() if severity == "warning"} == {
        "name-unprintable", "storage-orphan", "optimizer-incomplete", "file-unreferenced",
        "file-newer", "values-nan", "values-inf", "seal-extra", "integrity-unreadable",
        "index-mismatch", "not-resumable", "tracker-mismatch", "sidecar-times",
        "local-state", "family-hole", "alias-shape", "step-mismatch",
    }  # fmt: skip


# -- harmless oddities -------------------------------------------------------------------------


def odd_protocol(protocol: int) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / ".metadata").write_bytes(pickle.dumps(ed.metadata_of(folder), protocol))

    return make


def renamed(name: Any) -> Callable[[Path], None]:
    return lambda folder: ed.rename_entry(folder, "model.net2.bias", name)


def no_planner_data(folder: Path) -> None:
    """As `DefaultSavePlanner(flatten_state_dict=False)` saves, whose order is the ranks'."""
    ed.edit(folder, lambda metadata: setattr(metadata, "planner_data", None))


HARMLESS: dict[str, Callable[[Path], object]] = {
    **{f"protocol {n}": odd_protocol(n) for n in (0, 1, 2, 3, 4, 5)},
    "a name of a million characters": renamed("w." + "x" * 1_000_000),
    "a wide name": renamed("全角の重み.バイアス"),
    "a name with combining characters": renamed("e\u0301" + "\u0300\u0316" * 12),
    "a name of emoji": renamed("👩.🏽"),
    "an empty name": renamed(""),
    "a number as name": renamed(7),
    "nothing as name": renamed(None),
    "no planner data": no_planner_data,
    "other files beside it": lambda f: (f / "config.json").write_text("{}"),
    "a folder beside it": lambda f: (f / "__9_0.distcp").mkdir(),
    "an empty file of another rank": lambda f: (f / "__4_0.distcp").touch(),
}


@pytest.mark.parametrize("what", HARMLESS)
def test_harmless_oddities_are_no_errors(good: Path, what: str) -> None:
    HARMLESS[what](good)
    set_times(good)
    report = judged(good, "--values")
    assert [f for f in report.findings if f.severity == "error"] == []
    assert report.verdict == "sound"
    assert report.checked.tensors == 6
    if "name" not in what:
        assert report.findings == ()
