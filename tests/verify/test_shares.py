"""Reading by several ranks: what they find together is what one process finds, entry by entry."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inspector.checkpoint.find.locate import folder_of, read_checkpoint
from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.payload.plan import PayloadPlan, plan_payloads
from inspector.checkpoint.storage.base import Storage
from inspector.checks.findings import DeepReport
from inspector.checks.judge import check_storage
from inspector.checks.payload.deep import DeepRequest, check_deep
from inspector.checks.payload.payloads import check_payloads
from inspector.checks.seal.seal import read_seal
from inspector.cli.group import run_command
from inspector.errors import InspectError, UsageError
from inspector.report.documents.check import CheckDocument
from inspector.report.documents.verification import READ_EVENTS
from inspector.report.verify_text import progress_line
from inspector.tui.verification.figures import rank_figures, totals
from inspector.tui.verification.head import head_text
from inspector.verify.job.records import records_of
from inspector.verify.progress import JobState
from inspector.verify.ranks.vitals import Reporter
from inspector.verify.recording import read_events
from inspector.verify.shares import division
from inspector.verify.shares.division import state_of
from inspector.verify.shares.merge import (
    EndedRanks,
    find_job,
    judge_shares,
    judged,
    merge_shares,
    shares_sentence,
)
from inspector.verify.shares.portion import share_file
from inspector.verify.shares.worker import read_share_of
from inspector.verify.spec import ReadSpec, read_spec
from tests.conftest import SAMPLES
from tests.helpers.schemas import fault

SAMPLE = SAMPLES / "hsdp_2x4"


@dataclasses.dataclass
class Ranks:
    """A job whose ranks read in this process, one after the other."""

    checkpoint: Checkpoint
    storage: Storage
    spec: ReadSpec

    @classmethod
    def of(cls, folder: Path, events: Path, num_ranks: int, **more: Any) -> Ranks:
        storage = folder_of(str(folder))
        events.mkdir()
        spec = ReadSpec(
            str(folder),
            "check",
            num_ranks,
            events_dir=str(events),
            run=f"run-{events.name}",
            **more,
        )
        (events / "spec.json").write_text(spec.to_json())
        return cls(read_checkpoint(storage), storage, spec)

    @property
    def events(self) -> Path:
        return Path(self.spec.events_dir)

    def read(self, *ranks: int, stop: threading.Event | None = None) -> Ranks:
        """Have these ranks (default: all) read their shares."""
        for rank in ranks or range(self.spec.world_size):
            reporter = Reporter(self.spec.events_dir, rank, self.spec.run)
            at = {"local_rank": 0, "world_size": self.spec.world_size}
            reporter.send("hello", pid=os.getpid(), host=f"host{rank}", device="cpu", **at)
            read_share_of(
                self.checkpoint, self.storage, self.spec, rank, reporter, stop or threading.Event()
            )
        return self

    def merged(self) -> DeepReport:
        return merge_shares(
            self.checkpoint, self.storage, EndedRanks.by_now(self.spec, self.events)
        )


def assert_same(together: DeepReport, alone: DeepReport) -> None:
    assert together.findings == alone.findings
    assert replace(together.checked, ranks=()) == alone.checked
    assert not together.is_cancelled
    assert sum(rank.payloads_read for rank in together.checked.ranks) == alone.checked.payloads
    assert sum(rank.bytes_read for rank in together.checked.ranks) == alone.checked.payload_bytes
    assert not any(rank.why_not for rank in together.checked.ranks)


FEW = (
    "hsdp_2x4",
    "per_rank_metadata_2",
    "safetensors_1",
    "zstd_2",
    "broken/byte_ranges_overlap",
    "broken/no_checksum",
    "broken/payload_dtype",
    "broken/payload_unsafe",
    "broken/payload_zeroed",
    "broken/pointers_swapped",
)


def compare(tmp_path: Path, names: Iterable[str], *, values: bool) -> int:
    """Compare what many ranks and what one process find in samples; how many could be read."""
    num_compared = 0
    for number, name in enumerate(names):
        try:
            checkpoint = read_checkpoint(folder_of(str(SAMPLES / name)))
        except InspectError:
            continue
        alone = check_payloads(checkpoint, folder_of(str(SAMPLES / name)), values=values)
        # Small portions, so that what belongs together is told in several.
        num_ranks, num_bytes = 2 + number % 4, 1 if number % 2 else 1 << 14
        more = {"values": values, "portion_bytes": num_bytes}
        ranks = Ranks.of(SAMPLES / name, tmp_path / str(number), num_ranks, **more)
        ranks.checkpoint = checkpoint
        assert_same(ranks.read().merged(), alone)
        num_compared += 1
    return num_compared


def test_a_few_samples(tmp_path: Path) -> None:
    assert compare(tmp_path, FEW, values=True) == len(FEW)


@pytest.mark.slow
def test_every_sample_and_every_broken_one(tmp_path: Path) -> None:
    names = [path.name for path in sorted(SAMPLES.iterdir()) if path.is_dir()]
    names += [f"broken/{path.name}" for path in sorted((SAMPLES / "broken").iterdir())]
    assert compare(tmp_path, names, values=False) > 70


@pytest.mark.parametrize(
    "name", ["fsdp2_hsdp_2x2_adamw", "broken/bit_flip", "broken/byte_ranges_overlap"]
)
def test_the_whole_report_is_one_processes(tmp_path: Path, name: str) -> None:
    folder = SAMPLES / name

    def deep(checkpoint: Checkpoint, storage: Storage) -> Any:
        from contextlib import nullcontext

        return check_deep(
            checkpoint, storage, DeepRequest(True, False), lambda: nullcontext(lambda _: False)
        )

    alone = check_storage(folder_of(str(folder)), deep=deep)
    ranks = Ranks.of(folder, tmp_path / "job", 3).read()
    together = judge_shares(ranks.spec, ranks.events)
    assert replace(together, checked=replace(together.checked, ranks=())) == alone
    assert (together.verdict, together.exit_code) == (alone.verdict, alone.exit_code)
    assert shares_sentence(together).startswith(f"{alone.verdict.upper()}: ")


Answer = Callable[..., tuple[int, str]]


@pytest.fixture
def answer(capsys: pytest.CaptureFixture[str]) -> Answer:
    """Runs a command here: its exit code, and what it printed (stdout, then stderr)."""

    def run(*args: object) -> tuple[int, str]:
        code = run_command([str(arg) for arg in args])
        return code, "".join(capsys.readouterr())

    return run


def test_ranks_that_read_nothing_are_no_readers(tmp_path: Path, answer: Answer) -> None:
    folder = SAMPLES / "hsdp_2x4"
    ranks = Ranks.of(folder, tmp_path / "job", 3)
    code, text = answer("check", folder, "--deep", "--shares", tmp_path / "job")
    assert (code, "read by      none of 3 ranks\n" in text) == (2, True)
    ranks.read(1)
    code, text = answer("check", folder, "--deep", "--shares", tmp_path / "job")
    assert (code, "read by      1 of 3 ranks on host1, 12.3 KiB each" in text) == (2, True)
    ranks.read(0, 2)
    code, text = answer("check", folder, "--deep", "--shares", tmp_path / "job")
    assert (code, "read by      3 ranks on host" in text) == (0, True)


def test_json_is_one_processes_and_says_who_read(tmp_path: Path, answer: Answer) -> None:
    folder = SAMPLES / "broken/bit_flip"
    Ranks.of(folder, tmp_path / "job", 2).read()
    code, alone = answer("check", folder, "--deep", "--json")
    assert code == 1
    code, said = answer("check", folder, "--deep", "--json", "--shares", tmp_path / "job")
    assert code == 1
    document = json.loads(said)
    assert fault(document, CheckDocument) == ""
    ranks = document["checked"].pop("ranks")
    assert document == json.loads(alone)
    assert [rank["host"] for rank in ranks] == ["host0", "host1"]
    assert sum(rank["payloads_read"] for rank in ranks) == document["checked"]["payloads"]
    assert [rank["why_not"] for rank in ranks] == [None, None]
    code, text = answer("check", folder, "--deep", "--shares", tmp_path / "job")
    assert (code, "read by      2 ranks on host0, host1, " in text) == (1, True)
    # What was recorded is told again, and is no verdict.
    code, text = answer("replay", tmp_path / "job", "--no-tui")
    assert (code, text[:6], "this is no verdict" in text) == (2, "READ: ", True)
    assert f"what comes of it: hsdp-inspect check {folder} --deep --shares " in text
    code, text = answer("replay", tmp_path / "job", "--json")
    events = [json.loads(line) for line in text.splitlines()]
    assert code == 2
    assert {fault(event, READ_EVENTS[event["event"]]) for event in events} == {""}
    assert events[-1]["num_wrong"] == 1
    assert [e["code"] for e in events if e["event"] == "finding"] == ["payload-corrupt"]


# Shares.


def divide(plan: PayloadPlan, num_ranks: int) -> list[range]:
    return division.cut(plan.length, num_ranks, division.unit_firsts(plan))


def portions(plan: PayloadPlan, places: range, num_bytes: int) -> Iterator[range]:
    return division.parts(plan.length, places, num_bytes, division.unit_firsts(plan))


def test_shares_are_alike_in_bytes_and_leave_nothing_out() -> None:
    plan = plan_payloads(read_checkpoint(folder_of(str(SAMPLES / "fsdp2_hsdp_2x4_adamw"))))
    for num_ranks in (1, 2, 3, 7, plan.num_places + 5):
        shares = divide(plan, num_ranks)
        assert [place for share in shares for place in share] == list(range(plan.num_places))
        sizes = [int(plan.length[share.start : share.stop].sum()) for share in shares]
        assert max(sizes) - min(sizes) <= 2 * int(plan.length.max())
        for share in shares:
            for size in (1, 5000, 1 << 40):
                parts = list(portions(plan, share, size))
                assert [place for part in parts for place in part] == list(share)
                assert all(len(part) for part in parts)


def plan_of(*places: tuple[int, int, int, bool]) -> PayloadPlan:
    """A plan of (file, offset, length, overlaps)."""
    columns = np.array([place[:3] for place in places], np.int64).reshape(-1, 3).T
    owner = np.arange(len(places), dtype=np.int64)
    overlaps = np.array([place[3] for place in places], np.bool_)
    return PayloadPlan(*columns, owner, np.arange(len(places) + 1), overlaps)


def test_a_file_of_overlapping_payloads_is_one_ranks() -> None:
    tangled = [(1, 0, 100, False), (1, 50, 100, True), (1, 150, 100, False)]
    plan = plan_of((0, 0, 100, False), *tangled, (2, 0, 100, False))
    for num_ranks in range(1, 8):
        shares = divide(plan, num_ranks)
        assert any(set(range(1, 4)) <= set(share) for share in shares)
        assert all(
            range(1, 4) == part or 2 not in part for s in shares for part in portions(plan, s, 1)
        )
    assert divide(plan_of(), 3) == [range(0)] * 3
    # What lies may sum up to more than 64 bits hold.
    huge = plan_of(*((i, 0, (1 << 63) - 1, False) for i in range(4)))
    assert divide(huge, 2) == [range(2), range(2, 4)]


# Whatever is the case with a rank, its share is not checked.


def lost(ranks: Ranks, **spec: Any) -> tuple[str, str]:
    """What and why was not checked of the share of rank 1, which is never `sound`."""
    report = judge_shares(replace(ranks.spec, **spec), ranks.events)
    assert report.verdict == "unreadable"
    assert report.exit_code == 2
    assert "NOT READ TO ITS END: rank" in shares_sentence(report)
    (left,) = report.checked.not_checked
    whole = report.checked.ranks
    assert [bool(rank.why_not) for rank in whole] == [False, True]
    assert whole[1].why_not == left.why
    return left.what, left.why


def test_the_command_names_what_was_not_checked(pair: Ranks, answer: Answer) -> None:
    what, why = lost(pair.read(0))
    code, said = answer("check", pair.spec.path, "--deep", "--shares", pair.events)
    assert code == 2
    assert "sound" not in said
    assert f"not checked  {what}: {why}" in said
    assert "rank 1 did not read its share" in said
    code, said = answer("replay", pair.events, "--no-tui")
    assert (code, said.startswith("FAILED after ")) == (2, True)


@pytest.fixture
def pair(tmp_path: Path) -> Ranks:
    """Two ranks of a copy, each with a share of 12 payloads in portions of one."""
    folder = tmp_path / "copy"
    shutil.copytree(SAMPLE, folder, copy_function=shutil.copy2)
    return Ranks.of(folder, tmp_path / "job", 2, portion_bytes=1)


def test_a_rank_that_never_came(pair: Ranks) -> None:
    what, why = lost(pair.read(0))
    assert what.startswith("12 payloads (18,924 bytes) of the share of rank 1, in __4_0.distcp, ")
    assert why == "nothing was ever heard of it"


def test_a_rank_that_was_killed_on_its_way(pair: Ranks) -> None:
    pair.read()
    lines = share_file(pair.events, 1).read_bytes().splitlines(keepends=True)
    assert len(lines) == 12
    # The last line is torn, as a full disk or a kill leaves it.
    share_file(pair.events, 1).write_bytes(b"".join(lines[:4]) + lines[4][:100])
    events = pair.events / "rank-00001.jsonl"
    events.write_text("".join(x for x in events.open() if '"bye"' not in x))
    reporter = Reporter(str(pair.events), 1, pair.spec.run)
    reporter.send("failed", kind="killed", message="it was killed by SIGKILL", stack="", root=True)
    what, why = lost(pair)
    assert what.startswith("8 payloads (")
    assert why == "it failed: it was killed by SIGKILL"


def test_a_rank_that_was_ended_with_the_job(pair: Ranks) -> None:
    pair.read(0)
    writer = Reporter(str(pair.events), 1, pair.spec.run)
    writer.send("hello", pid=1, host="beta", device="cpu")
    launcher = Reporter(str(pair.events), 0, pair.spec.run)
    launcher.writer.rank = None
    launcher.send("failed", kind="killed", message="node beta is silent", stack="", root=True)
    assert lost(pair)[1] == "it was ended with the job: the job: node beta is silent"


def spoil(change: Callable[[dict[str, Any]], None]) -> Callable[[Ranks], None]:
    """Change what rank 1 says of its first portion, with a checksum that fits."""

    def spoiled(ranks: Ranks) -> None:
        import zlib

        path = share_file(ranks.events, 1)
        first, *rest = path.read_bytes().splitlines()
        told = json.loads(first[9:])
        change(told)
        text = json.dumps(told).encode()
        path.write_bytes(b"\n".join([b"%08x %b" % (zlib.crc32(text), text), *rest, b""]))

    return spoiled


def flip(ranks: Ranks) -> None:
    path = share_file(ranks.events, 1)
    data = bytearray(path.read_bytes())
    data[data.index(b'"first":12') + 9] ^= 1
    path.write_bytes(data)


def twice(ranks: Ranks) -> None:
    path = share_file(ranks.events, 1)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[1], lines[1], *lines[1:]]))


@pytest.mark.parametrize(
    "spoiled",
    [
        flip,
        twice,
        spoil(lambda told: told.update(first=0, last=1)),
        spoil(lambda told: told.update(first=12.0)),
        spoil(lambda told: told.update(last=1 << 70)),
        spoil(lambda told: told.update(last=-1)),
        spoil(lambda told: told.pop("crc32")),
        spoil(lambda told: told.update(crc32="")),
        spoil(lambda told: told.update(untried=[12, "x"])),
        spoil(lambda told: told.update(unread=[0])),
        spoil(lambda told: told.update(findings=[[12, [{"code": "sound"}]]])),
        spoil(lambda told: told.update(values=[[99, [0], 1, 1, None, None]])),
        spoil(lambda told: told.update(digests=[[1, 2]])),
        spoil(lambda told: told.update(notes={"a": 1})),
        spoil(lambda told: told.update(skipped=[["a", "b", -1]])),
        spoil(lambda told: told.update(num_unread=True)),
    ],
)
def test_what_cannot_be_is_no_reading(pair: Ranks, spoiled: Callable[[Ranks], None]) -> None:
    spoiled(pair.read())
    what, why = lost(pair)
    assert what.startswith("1 payload (")
    assert why == "what it wrote down of it cannot be read"


def test_shares_of_another_job_or_of_another_state_do_not_count(pair: Ranks) -> None:
    pair.read()
    assert judge_shares(pair.spec, pair.events).verdict == "sound"
    other = share_file(pair.events, 0).read_bytes()
    mine = share_file(pair.events, 1).read_bytes()
    share_file(pair.events, 1).write_bytes(other)
    assert lost(pair)[1] == "what was found in its place is of another job"
    share_file(pair.events, 1).write_bytes(mine)
    os.utime(Path(pair.spec.path, "__0_0.distcp"), (1, 1))
    report = judge_shares(pair.spec, pair.events)
    assert (report.verdict, report.exit_code) == ("unreadable", 2)
    assert report.checked.payloads == 0
    for left in report.checked.not_checked:
        assert left.why.startswith("it read another state of the checkpoint")


def test_damage_stays_damage_where_a_rank_is_lost(tmp_path: Path) -> None:
    folder = SAMPLES / "broken/bit_flip"
    ranks = Ranks.of(folder, tmp_path / "job", 2)
    alone = check_payloads(ranks.checkpoint, ranks.storage)
    (wrong,) = {f.file for f in alone.findings if f.code == "payload-corrupt"}
    paths = [file.path for file in ranks.checkpoint.files]
    plan = plan_payloads(ranks.checkpoint)
    files = [set(plan.file[s.start : s.stop].tolist()) for s in divide(plan, 2)]
    (finder,) = (rank for rank in (0, 1) if paths.index(wrong or "") in files[rank])
    report = judge_shares(ranks.read(finder).spec, ranks.events)
    # One error is known, and not all was read: that is no whole answer.
    assert (report.verdict, report.exit_code) == ("damaged", 2)


def test_a_rank_that_is_told_to_stop_writes_what_it_has(pair: Ranks) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(InspectError, match="told to stop"):
        replace(pair, spec=replace(pair.spec, portion_bytes=1 << 30)).read(0, stop=stop)
    assert share_file(pair.events, 0).read_bytes().count(b"\n") == 1
    report = judge_shares(pair.spec, pair.events)
    assert (report.verdict, report.exit_code, report.checked.payloads < 24) == (
        "unreadable",
        2,
        True,
    )


# The job.


def test_a_spec_comes_back_and_nonsense_does_not(tmp_path: Path) -> None:
    spec = ReadSpec("/x", "check", 4, values=True, timeout_s=3.5, run="a")
    path = tmp_path / "spec.json"
    path.write_text(spec.to_json())
    assert read_spec(path) == spec
    good = json.loads(spec.to_json())
    for wrong in (
        {"task": "format"},
        {"task": 3},
        {"world_size": 0},
        {"world_size": True},
        {"world_size": "4"},
        {"values": 1},
        {"version": 2},
        {"more": 1},
        {"path": None},
    ):
        path.write_text(json.dumps(good | wrong))
        with pytest.raises(UsageError):
            read_spec(path)


def test_options_that_do_not_go_together(tmp_path: Path) -> None:
    for args, words in (
        (("--nproc-per-node", 2), "--deep (or --values) asks for that"),
        (("--deep", "--nnodes", 2), "--print-command prints it"),
        (("--deep", "--nproc-per-node", -1), "1 or more"),
        (("--deep", "--nproc-per-node", 2, "--newest"), "leave out --newest"),
        (("--deep", "--events", tmp_path / "x"), "--nproc-per-node N says how many"),
        (("--deep", "--nproc-per-node", 2, "--timeout", "nan"), "more than 0 seconds"),
        (("--deep", "--nproc-per-node", 2, "--shares", tmp_path), "leave out the others"),
        (("--deep", "--shares", tmp_path / "none"), "holds no job"),
        (("--deep", "--nproc-per-node", 2, "--events", SAMPLE / "x"), "--events"),
    ):
        with pytest.raises(UsageError) as refused:
            run_command(["check", str(SAMPLE), *map(str, args)])
        assert words in f"{refused.value.message} {refused.value.hint}"
    with pytest.raises(UsageError) as refused:
        run_command(["check", str(SAMPLES / "run"), "--deep", "--nproc-per-node", "2"])
    assert "give the path of one of them" in refused.value.hint


def test_the_printed_job(tmp_path: Path, answer: Answer) -> None:
    events = tmp_path / "job"
    code, said = answer(
        *("check", SAMPLE, "--values", "--print-command", "--nnodes", "2"),
        *("--nproc-per-node", "3", "--events", str(events)),
    )
    assert code == 0
    lines = [line for line in said.splitlines() if not line.startswith("#")]
    assert "--standalone --nproc-per-node=6" in lines[0]
    assert all("--nnodes=2" in line and "--nproc-per-node=3" in line for line in lines[1:2])
    assert any("srun --nodes=2" in line for line in lines)
    assert any("-m inspector.verify.shares.worker" in line for line in lines)
    assert lines[-1] == f"hsdp-inspect check {SAMPLE} --values --shares {events}"
    spec, where = find_job(str(events), "check")
    assert (spec.world_size, spec.values, where) == (6, True, events)
    for manifest in ("pytorchjob.json", "trainjob.json"):
        assert str(events) in (events / manifest).read_text()
    # Nobody has read yet.
    assert judge_shares(spec, where).exit_code == 2


def test_the_state_is_of_what_is_read(pair: Ranks) -> None:
    plan = plan_payloads(pair.checkpoint)
    state = state_of(pair.checkpoint, plan)
    again = read_checkpoint(folder_of(pair.spec.path))
    assert state_of(again, plan_payloads(again)) == state
    with open(Path(pair.spec.path, "__0_0.distcp"), "ab") as file:
        file.write(b"x")
    again = read_checkpoint(folder_of(pair.spec.path))
    assert state_of(again, plan_payloads(again)) != state


# Seals.


def sealing(folder: Path, events: Path, num_ranks: int, **more: Any) -> Ranks:
    return doing("seal", folder, events, num_ranks, **more)


def doing(task: str, folder: Path, events: Path, num_ranks: int, **more: Any) -> Ranks:
    ranks = Ranks.of(folder, events, num_ranks, **more)
    ranks.spec = replace(ranks.spec, task=task)
    (events / "spec.json").write_text(ranks.spec.to_json())
    return ranks


@pytest.mark.parametrize("name", ["fsdp2_hsdp_2x2_adamw", "safetensors_1", "zstd_2"])
def test_a_seal_of_many_ranks_is_one_processes(tmp_path: Path, answer: Answer, name: str) -> None:
    folder = SAMPLES / name
    ranks = sealing(folder, tmp_path / "job", 3, portion_bytes=1 << 10).read()
    one, other = tmp_path / "one.json", tmp_path / "other.json"
    assert answer("seal", folder, "--output", one)[0] == 0
    assert answer("seal", folder, "--output", other, "--shares", ranks.events)[0] == 0
    seals = [read_seal(str(path)) for path in (one, other)]
    assert seals[0].content_sha256 == seals[1].content_sha256
    assert seals[0].num_bytes == seals[1].num_bytes
    said, code = judged(ranks.spec, ranks.events)
    assert (code, said[:8]) == (0, "HASHED: ")
    # The ranks of a seal have not looked at checksums.
    with pytest.raises(UsageError, match="have read for seal, not for check"):
        answer("check", folder, "--deep", "--shares", ranks.events)
    code, text = answer("replay", ranks.events, "--no-tui")
    assert (code, f"what comes of it: hsdp-inspect seal {folder} --shares " in text) == (2, True)


def test_a_seal_stands_for_everything_or_is_not_made(tmp_path: Path, pair: Ranks) -> None:
    ranks = sealing(Path(pair.spec.path), tmp_path / "seal", 2, portion_bytes=1).read()
    path = share_file(ranks.events, 1)
    lines = path.read_bytes().splitlines(keepends=True)
    output = tmp_path / "seal.json"
    args = ["seal", pair.spec.path, "--output", str(output), "--shares", str(ranks.events)]

    def refused(content: bytes) -> str:
        path.write_bytes(content)
        with pytest.raises(InspectError) as error:
            run_command(args)
        assert not output.exists()
        assert error.value.exit_code == 2
        return error.value.message

    assert "rank 1 did not hash 1 of its " in refused(b"".join(lines[:-1]))
    assert "what it wrote down of it cannot be read" in refused(
        b"".join(lines[:-1]) + lines[-1][:-9]
    )
    # Of another's share, or of another checkpoint, nothing is taken.
    assert "of another job" in refused(share_file(ranks.events, 0).read_bytes())
    os.utime(Path(pair.spec.path, "__0_0.distcp"), (1, 1))
    assert "read another state of the checkpoint" in refused(b"".join(lines))


def test_what_is_damaged_is_not_sealed_by_many_either(tmp_path: Path) -> None:
    folder = SAMPLES / "broken/payload_zeroed"
    output = tmp_path / "seal.json"
    with pytest.raises(InspectError) as alone:
        run_command(["seal", str(folder), "--output", str(output)])
    ranks = sealing(folder, tmp_path / "job", 2).read()
    with pytest.raises(InspectError) as together:
        run_command(["seal", str(folder), "--output", str(output), "--shares", str(ranks.events)])
    assert (together.value.message, together.value.hint) == (alone.value.message, alone.value.hint)
    assert judged(ranks.spec, ranks.events)[1] == 2
    assert not output.exists()


# Statistics.


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("dtypes_4", ()),
        ("per_rank_metadata_2", ()),
        ("fsdp2_hsdp_2x2_adamw", ("--filter", "exp_avg !sq")),
        ("broken/payload_zeroed", ()),
        ("broken/file_missing", ()),
    ],
)
def test_statistics_of_many_ranks_are_one_processes_to_the_last_bit(
    tmp_path: Path, answer: Answer, name: str, words: tuple[str, ...]
) -> None:
    folder = SAMPLES / name
    more = {"filter": words[1]} if words else {}
    ranks = doing("stats", folder, tmp_path / "job", 3, portion_bytes=1 << 9, **more).read()
    for form in (("--json",), ("--json", "--histogram", "log"), ("--histogram", "linear")):
        alone = answer("stats", folder, *words, *form)
        assert answer("stats", folder, *words, *form, "--shares", ranks.events) == alone
    said, code = judged(ranks.spec, ranks.events)
    assert (code, said.split(":")[0]) == ((0, "READ") if alone[0] == 0 else (1, "NOT ALL READ"))
    if words:
        with pytest.raises(UsageError, match="the ranks have read for --filter"):
            answer("stats", folder, "--shares", ranks.events)


def test_statistics_without_a_rank(pair: Ranks, tmp_path: Path, answer: Answer) -> None:
    ranks = doing("stats", Path(pair.spec.path), tmp_path / "stats", 2, portion_bytes=1).read()
    path = share_file(ranks.events, 1)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))
    code, said = answer("stats", pair.spec.path, "--shares", ranks.events)
    assert code == 2
    assert "it is of the share of rank 1: what it wrote down of it cannot be read" in said
    assert "hsdp-inspect: rank 1 did not read 1 of its " in said
    code, said = answer("stats", pair.spec.path, "--json", "--shares", ranks.events)
    (left,) = json.loads(said[: said.rindex("}") + 1])["not_read"]
    assert "share of rank 1" in left["why"]
    assert judged(ranks.spec, ranks.events)[1] == 2
    # Told to stop, a rank tells what it has, and that this is not all.
    stop = threading.Event()
    stop.set()
    ranks = doing("stats", Path(pair.spec.path), tmp_path / "stopped", 1, portion_bytes=1)
    with pytest.raises(InspectError, match="told to stop"):
        ranks.read(stop=stop)
    assert judged(ranks.spec, ranks.events)[1] == 2


def figure(change: Callable[[list[Any]], None]) -> Callable[[Ranks], None]:
    """Change the figures of one tensor."""
    return spoil(lambda told: change(told["tensors"][0]))


@pytest.mark.parametrize(
    "spoiled",
    [
        figure(lambda told: told.__setitem__(0, 0)),
        figure(lambda told: told.__setitem__(1, -1)),
        figure(lambda told: told.__setitem__(4, "0.5")),
        figure(lambda told: told.__setitem__(10, [0.5])),
        figure(lambda told: told.__setitem__(-3, "AAA")),
        figure(lambda told: told.__setitem__(-3, "")),
        figure(list.clear),
        spoil(lambda told: told.update(tensors=[])),
        spoil(lambda told: told.update(not_read=[[0, 1, "x", False]])),
        spoil(lambda told: told.pop("payload_bytes")),
    ],
)
def test_figures_that_cannot_be(
    pair: Ranks, tmp_path: Path, spoiled: Callable[[Ranks], None]
) -> None:
    ranks = doing("stats", Path(pair.spec.path), tmp_path / "stats", 2, portion_bytes=1).read()
    assert judged(ranks.spec, ranks.events)[1] == 0
    spoiled(ranks)
    said, code = judged(ranks.spec, ranks.events)
    assert code == 2
    assert said.startswith("NOT ALL READ: rank 1 did not read 1 of its ")
    assert "what it wrote down of it cannot be read" in said


# Shown live.


def test_the_screen_and_the_line_tell_a_reading_as_a_reading(tmp_path: Path) -> None:
    ranks = Ranks.of(SAMPLES / "broken/bit_flip", tmp_path / "job", 2).read()
    num = plan_payloads(ranks.checkpoint).num_places
    state = JobState()
    # A job that runs has no result yet.
    running = []
    for event in read_events(str(ranks.events)):
        if event is not None:
            state.apply(event)
            running.append(state.snapshot())
    for snapshot, words in (
        (running[-2], f"{num} of {num} payloads read so far · 1 wrong · "),
        (state.snapshot(), f"{num} of {num} payloads read · 1 wrong · "),
    ):
        figures = rank_figures(snapshot, (0.0, 0.0))
        head = head_text(snapshot, totals(snapshot, figures, snapshot.last_t), 120).plain
        assert words in head
        assert "check: 2 ranks that read, each its share" in head
        assert "exact" not in head.lower()
    assert head.startswith(" READ ")
    line = progress_line(running[-2], running[-2].last_t)
    assert line.startswith("read 100 % of ")
    assert f"{num} of {num} payloads read, 1 WRONG" in line
    # It is none of the verifications that the screen lists.
    assert records_of(ranks.spec.path) == []
