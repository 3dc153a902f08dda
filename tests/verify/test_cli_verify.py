"""`verify` and `replay` as a user runs them: what is printed where, and the exit code."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp

from inspector.cli.verify import parse_share, parse_size
from inspector.errors import UsageError
from inspector.report.documents.verification import EVENTS
from inspector.verify.job.guard import SCRATCH_PREFIX, job_pids
from inspector.verify.job.run_folder import recorded_runs
from tests.conftest import ROOT, SAMPLES, Ran, run_python
from tests.helpers.schemas import DOCUMENTS, fault
from tests.verify.jobs import mark_of, wait_for

SAMPLE = SAMPLES / "hsdp_2x2"


def _cli(*args: str | Path, **env: str) -> Ran:
    env = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **env}
    return run_python("-m", "tests.verify.run_cli", *args, env=env)


def test_sizes_and_shares() -> None:
    assert parse_size("4GiB") == parse_size("4g") == parse_size("4096M") == 4 << 30
    assert parse_size("1.5k") == 1536
    assert parse_size("1000") == parse_size("1000B") == 1000
    assert parse_share("5%") == parse_share("0.05") == 0.05
    for bad in ("", "GiB", "-1", "0", "4 apples", "nan", "inf"):
        with pytest.raises(UsageError):
            parse_size(bad)
    for bad in ("", "%", "0", "101%", "-5%", "nan"):
        with pytest.raises(UsageError):
            parse_share(bad)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["/nowhere", "--mesh", "fsdp:2"], "no such file"),
        ([SAMPLE, "--mesh", "fsdp:0"], "no ranks"),
        ([SAMPLE, "--mesh", "banana"], "not a mesh"),
        (
            [SAMPLE, "--mesh", "pp:2"],
            "a pipeline stage holds is not the mesh's to say",
        ),
        ([SAMPLE, "--mesh", "fsdp:2", "--then", "fsdp:4"], "4 ranks"),
        ([SAMPLE, "--mesh", "fsdp:2", "--sample", "200%"], "not a share"),
        ([SAMPLE, "--mesh", "fsdp:2", "--memory", "lots"], "not a size"),
        ([SAMPLE, "--mesh", "fsdp:2", "--memory", "1"], "at least 1 MiB"),
        *(
            ([SAMPLE, "--mesh", "fsdp:2", "--timeout", seconds], "at most 30 days")
            for seconds in ("nan", "inf", "-inf", "0", "-1", "1e300")
        ),
        ([SAMPLE, "--mesh", "fsdp:2", "--filter", "no-such-name"], "no name matches"),
        ([SAMPLE, "--mesh", "fsdp:2", "--python", "/nowhere/python"], "no such program"),
        ([SAMPLE, "--mesh", "fsdp:2", "--python", "/bin/echo"], "does not answer"),
        ([SAMPLE, "--mesh", "fsdp:2", "--scratch", "/proc/nowhere"], "scratch"),
        ([SAMPLE, "--mesh", "fsdp:60000"], "memory"),
        ([SAMPLES / "run", "--mesh", "fsdp:2"], "3 checkpoints"),
        ([SAMPLE], "--mesh"),
    ],
)
def test_what_cannot_be_done_is_one_line(args: list[str | Path], said: str) -> None:
    ran = _cli("verify", *args)
    assert ran.code == 2
    assert ran.out == ""
    first, *hint = ran.err.splitlines()
    assert first.startswith("hsdp-inspect: ")
    assert said in first
    assert len(hint) <= 1
    assert recorded_runs() == []


def test_no_torch_in_the_interpreter(tmp_path: Path) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "$@"\n')
    bare.chmod(0o755)
    ran = _cli("verify", SAMPLE, "--mesh", "fsdp:2", "--python", bare)
    assert ran.code == 2
    assert "has no torch and no numpy" in ran.err
    assert "pip install torch numpy" in ran.err and "whl/cpu" in ran.err
    assert "--python" in ran.err


@pytest.mark.torchrun
def test_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.verify.run_cli", "verify", str(SAMPLE), "--mesh", "fsdp:2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "FAKE_WORKER": "1", "FAKE_RANK": "hang"},
        cwd=ROOT,
        start_new_session=True,
    )
    try:
        [folder] = wait_for(recorded_runs)
        wait_for(lambda: len(list((folder / "events").glob("rank-*.jsonl"))) == 2)
        mark = mark_of(folder)
        # As a terminal does it: to the whole foreground group.
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=600)
    finally:
        process.kill()
    assert process.returncode == 2
    assert out.startswith("CANCELLED under fsdp:2 then hsdp:2x1")
    assert "Traceback" not in err
    assert job_pids(mark) == []
    assert not os.path.exists(json.loads((folder / "guard.json").read_text())["scratch_dir"])


@pytest.mark.torchrun
def test_a_failed_job() -> None:
    env = {"FAKE_WORKER": "1", "FAKE_RANK_1": "raise"}
    ran = _cli("verify", SAMPLE, "--mesh", "fsdp:2", **env)
    assert ran.code == 2
    assert ran.out.startswith("FAILED under fsdp:2 then hsdp:2x1")
    assert "exception  rank 1: " in ran.out
    assert "ValueError: rank 1 does not like this" in ran.out
    assert "torchrun" not in ran.err


@pytest.mark.torchrun
def test_a_sound_checkpoint_and_its_replay(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    ran = _cli("verify", SAMPLE, "--mesh", "hsdp:1x2", "--json", "--report", report)
    assert ran.code == 0, ran.err
    events = [json.loads(line) for line in ran.out.splitlines()]
    assert [events[0]["event"], events[-1]["event"]] == ["spec", "result"]
    assert events[-1]["verdict"] == "exact"
    assert events[-1]["tensors"]["total"] == events[-1]["tensors"]["exact"] > 0
    assert json.loads(report.read_text())["result"] == events[-1]
    for event in events:
        assert not (what := fault(event, EVENTS[event["event"]])), f"{event}: {what}"
    assert fault(json.loads(report.read_text()), DOCUMENTS["verify-report"]) == ""
    [folder] = recorded_runs()
    again = _cli("replay", folder, "--json")
    assert (again.code, again.out) == (0, ran.out)
    text = _cli("replay", folder / "events.jsonl")
    assert text.code == 0
    assert text.out.startswith("EXACT: all ")
    # What the ranks wrote, without the front end's recording, says the same.
    alone = tmp_path / "events"
    shutil.copytree(folder / "events", alone)
    shutil.copy(folder / "spec.json", alone)
    followed = _cli("replay", alone, "--follow")
    assert followed.code == 0
    assert followed.out.startswith("EXACT: all ")


@pytest.mark.torchrun
def test_a_flipped_bit(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(SAMPLE, damaged)
    ran = _cli("verify", damaged, "--mesh", "fsdp:2", "--then", "none", "--json")
    assert ran.code == 0, ran.out + ran.err
    file = damaged / "__0_0.distcp"
    data = bytearray(file.read_bytes())
    data[data.find(b"data/0") + 200] ^= 1
    file.write_bytes(data)
    ran = _cli("verify", damaged, "--mesh", "fsdp:2")
    assert ran.code == 1, ran.out + ran.err
    assert ran.out.startswith("DIFFERS: 1 entry")
    assert "__0_0.distcp" in ran.out


def test_print_command(tmp_path: Path) -> None:
    ran = _cli(
        *("verify", SAMPLE, "--mesh", "hsdp:4x8", "--print-command", "--events", tmp_path / "e v"),
        *("--scratch", tmp_path / "scratch", "--port", "29876"),
    )
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert any("--nnodes=4" in line and "--nproc-per-node=8" in line for line in lines)
    assert any("srun --nodes=4" in line for line in lines)
    assert sum('"$HEAD_NODE:29876"' in line for line in lines) == 3
    assert lines[-1] == f"hsdp-inspect replay --follow '{tmp_path}/e v'"
    spec = json.loads((tmp_path / "e v" / "spec.json").read_text())
    assert (spec["mesh"], spec["device"], spec["backend"]) == ("hsdp:4x8", "cuda", "nccl")
    for line in lines:
        assert subprocess.run(["sh", "-n", "-c", line], check=False).returncode == 0
    # What a rank may hold is not this machine's to say, and what lies in the folder is left alone.
    assert spec["memory_bytes"] == 0
    scratch = Path(spec["scratch_dir"])
    assert scratch.parent == tmp_path / "scratch"
    assert scratch.name.startswith(SCRATCH_PREFIX)
    # Each print is a run of its own, to its nodes too.
    again = _cli("verify", SAMPLE, "--mesh", "hsdp:4x8", "--print-command", "--memory", "2GiB")
    (rdzv,) = re.findall(r"--rdzv-id=(\w+)", again.out)
    assert rdzv != spec["run"]
    assert f"--rdzv-id={spec['run']}" in ran.out
    printed = re.findall(r"the job is (.*)", again.out)[0]
    assert json.loads(Path(printed).read_text())["memory_bytes"] == 2 << 30
    # A machine without the package has all of it that the job takes.
    package = tmp_path / "e v" / "import" / "inspector"
    assert not package.is_symlink()
    assert (package / "verify" / "ranks" / "worker.py").is_file()
    for manifest, kind in (("pytorchjob.json", "PyTorchJob"), ("trainjob.json", "TrainJob")):
        assert json.loads((tmp_path / "e v" / manifest).read_text())["kind"] == kind


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--print-command", "--nnodes", "3"), "do not make the 4 ranks"),
        (("--print-command", "--nproc-per-node", "8"), "do not make the 4 ranks"),
        (("--print-command", "--port", "70000"), "a port is 1 to"),
        (("--nnodes", "2"), "for a job that is printed"),
        (("--backend", "nccl", "--device", "cpu"), "nccl needs GPUs"),
    ],
)
def test_a_shape_that_cannot_be(options: tuple[str, ...], said: str) -> None:
    ran = _cli("verify", SAMPLE, "--mesh", "fsdp:4", *options)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "no such file"), ("", "no events"), ("hello\n", "no events")],
)
def test_a_recording_that_is_none(tmp_path: Path, content: str | None, said: str) -> None:
    path = tmp_path / "events.jsonl"
    if content is not None:
        path.write_text(content)
    ran = _cli("replay", path)
    assert ran.code == 2
    assert ran.out == ""
    assert said in ran.err


def test_a_recording_that_breaks_off(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"schema": 1, "event": "hello", "rank": 0, "t": 1.0, "pid": 1}\n{"sche')
    ran = _cli("replay", path)
    assert ran.code == 2
    assert ran.out.startswith("The recording ends before the job did.")


@pytest.mark.torchrun
@pytest.mark.parametrize(
    ("name", "verdict", "code", "said"),
    [
        ("metadata_unknown_class", "unreadable", 1, "No module named"),
        ("metadata_unsafe", "unreadable", 1, "names code to be run"),
        ("path_parent", "partial", 2, "outside the checkpoint folder"),
    ],
)
def test_what_torch_does_not_read_and_what_is_left_out_is_no_success(
    name: str, verdict: str, code: int, said: str
) -> None:
    broken = SAMPLES / "broken" / name
    ran = _cli("verify", broken, "--mesh", "fsdp:1", "--then", "none")
    assert ran.code == code, ran.out + ran.err
    assert ran.out.startswith(f"{verdict.upper()}: ")
    assert said in ran.out
    if name == "metadata_unsafe":
        assert "will not be EXACT" in ran.err
    [folder] = recorded_runs()
    again = _cli("replay", folder)
    assert (again.code, again.out) == (code, ran.out)
    result = json.loads(_cli("replay", folder, "--json").out.splitlines()[-1])
    assert result["verdict"] == verdict
    assert result["torch_reads"]["ok"] == (verdict == "partial")
    assert result["tensors"]["exact"] > 0
    # Of another job's events, or of a part of its own, it says nothing good either.
    spec = json.loads((folder / "spec.json").read_text())
    (folder / "spec.json").write_text(json.dumps({**spec, "run": "another"}))
    alone = _cli("replay", folder / "events")
    assert alone.code == 2
    assert "EXACT" not in alone.out


@pytest.mark.slow
@pytest.mark.torchrun
def test_long_names_ways_and_a_replay_of_the_events_folder(tmp_path: Path) -> None:
    names = ["\u5b57" * 700 + str(i) for i in range(2)]
    state = {name: torch.arange(6.0) for name in names} | {"step": torch.tensor(3), "lr": {0.1}}
    dcp.save(state, checkpoint_id=tmp_path / "c", no_dist=True)
    events, report = tmp_path / "events", tmp_path / "report.json"
    job = ["--mesh", "fsdp:2", "--device", "cpu", "--memory", "64MiB"]
    ran = _cli(
        "verify", tmp_path / "c", *job, "--via", "fsdp2", "--events", events, "--report", report
    )
    assert ran.code == 0, ran.out
    headline, beside, *_ = ran.out.splitlines()
    assert headline.startswith("EXACT: all 4 entries are")
    assert "; 2 through FSDP2, 2 beside it as DTensors or bytes)" in headline
    assert beside == "  not through FSDP2: step, lr"
    ways = json.loads(report.read_text())["via"]
    assert {way: sorted(of) for way, of in ways.items()} == {
        "fsdp2": names,
        "dtensor": ["lr", "step"],
    }
    replayed = _cli("replay", "--no-tui", events)
    assert (replayed.code, replayed.out.split(";")[:2]) == (0, ran.out.split(";")[:2])
    # What is in the folder is another job's.
    ran = _cli("verify", tmp_path / "c", *job, "--events", events)
    assert ran.code == 2
    assert "holds the events of another job" in ran.err
    # Nothing that FSDP1 held.
    ran = _cli("verify", tmp_path / "c", *job, "--via", "fsdp1", "--filter", "step")
    assert ran.code == 2
    assert "no entry went through FSDP1" in ran.out
