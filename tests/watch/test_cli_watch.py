"""`hsdp-inspect watch`: its lines, its files, its exit codes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from inspector.checkpoint.find import search
from inspector.checkpoint.payload.source import open_file
from inspector.checkpoint.storage.local import LocalStorage
from inspector.checkpoint.storage.pace import Pace, paced
from inspector.checks.steps import Step
from inspector.cli.group import run_command
from inspector.errors import UsageError
from inspector.watch.outputs import address, write_latest
from tests.conftest import SAMPLES, run_cli
from tests.verify.jobs import wait_for

GOOD = SAMPLES / "run" / "step-100"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    for step in (100, 200):
        shutil.copytree(GOOD, folder / f"step-{step}")
    return folder


def events(text: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in text.splitlines()]
    assert all(event["schema"] == 1 and event["t"] > 0 for event in found)
    return found


def flip(folder: Path) -> None:
    data = bytearray((folder / "__0_0.distcp").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "__0_0.distcp").write_bytes(data)


def test_once_tells_each_step_once(run: Path, tmp_path: Path) -> None:
    latest, metrics = tmp_path / "latest", tmp_path / "run.prom"
    options = ("--once", "--settle", "0", "--write-latest", str(latest), "--metrics", str(metrics))
    result = run_cli("watch", str(run), *options)
    assert result.code == 0, result.err
    told = events(result.out)
    assert [(e["event"], e["path"]) for e in told] == [
        ("step", "step-100"),
        ("step", "step-200"),
        ("latest", "step-200"),
    ]
    assert [(e["verdict"], e["resumable"]) for e in told[:2]] == [("sound", True)] * 2
    assert latest.read_text() == f"{run / 'step-200'}\n"
    text = metrics.read_text()
    assert f'hsdp_inspect_watch_newest_resumable_step{{run="{run}"}} 200\n' in text
    assert f'hsdp_inspect_watch_steps{{run="{run}",verdict="sound"}} 2\n' in text
    assert f'hsdp_inspect_watch_up{{run="{run}"}} 1\n' in text
    again = run_cli("watch", str(run), *options)
    assert [e["event"] for e in events(again.out)] == ["latest"]


def test_damage_is_told_to_a_command(run: Path, tmp_path: Path) -> None:
    flip(run / "step-200")
    latest, log = tmp_path / "latest", tmp_path / "log"
    latest.write_text("/an/older/one\n")
    tell = tmp_path / "tell.py"
    tell.write_text(
        "import json, sys\n"
        "event = json.load(sys.stdin)\n"
        f"print(event['verdict'], sys.argv[1:], file=open({str(log)!r}, 'a'))\n"
    )
    result = run_cli(
        "watch",
        str(run),
        *("--once", "--deep", "--settle", "0", "--write-latest", str(latest)),
        *("--on-damage", f"{sys.executable} {tell} pager"),
    )
    assert result.code == 1
    told = {e["path"]: e for e in events(result.out) if e["event"] == "step"}
    assert told["step-200"]["verdict"] == "damaged"
    assert "payload-corrupt" in {f["code"] for f in told["step-200"]["findings"]}
    assert told["step-100"]["deep"]
    assert latest.read_text() == f"{run / 'step-100'}\n"
    assert log.read_text() == f"damaged {['pager', str(run / 'step-200')]}\n"


def test_no_step_to_resume_from_leaves_no_file(run: Path, tmp_path: Path) -> None:
    latest = tmp_path / "latest"
    latest.write_text("/an/older/one\n")
    for step in run.iterdir():
        (step / "__0_0.distcp").unlink()
    result = run_cli("watch", str(run), "--once", "--settle", "0", "--write-latest", str(latest))
    assert result.code == 1
    assert not latest.exists()
    assert run_cli("watch", str(run), "--once", "--settle", "0").code == 1


def test_a_listing_that_was_given_up_takes_no_file_away(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    latest = tmp_path / "latest"
    latest.write_text("/an/older/one\n")
    (tmp_path / "above").mkdir()
    run.rename(tmp_path / "above" / "run")
    monkeypatch.setattr(search, "_MAX_FOLDERS", 2)  # Not even the run's own is looked at.
    command = ["watch", str(tmp_path / "above"), "--once", "--settle", "0"]
    assert run_command([*command, "--write-latest", str(latest)]) == 2
    assert latest.read_text() == "/an/older/one\n"


def test_a_run_that_is_a_step_has_an_address_from_anywhere(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run / "step-100")
    assert address(".", Step("", 100, ())) == str(run / "step-100")
    assert address("s3://b/run/step-100", Step("", 100, ())) == "s3://b/run/step-100"


def test_no_link_is_written_through(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text("mine")
    (tmp_path / f".latest.{os.getpid()}.tmp").symlink_to(mine)
    (tmp_path / "latest").symlink_to(mine)
    write_latest(str(tmp_path / "latest"), "/run/step-100")
    assert (tmp_path / "latest").read_text() == "/run/step-100\n"
    assert mine.read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--settle", "nan"), "--settle nan: it is between 0 seconds and 30 days"),
        (("--interval", "-1"), "--interval -1"),
        (("--max-rate", "5MB/s"), "add --deep"),
        (("--deep", "--max-rate", "fast"), "--max-rate fast is no rate"),
        (("--deep", "--max-rate", "0"), "--max-rate 0 is no rate"),
        (("--on-damage", "'"), "--on-damage '"),
        (("--on-damage", ""), "--on-damage is empty"),
        (("--write-latest", "{run}/latest"), "lies in the checkpoint folder"),
        (("--metrics", "{run}/step-100/x.prom"), "lies in the checkpoint folder"),
    ],
)
def test_mistakes(run: Path, options: tuple[str, ...], says: str) -> None:
    given = [option.replace("{run}", str(run)) for option in options]
    with pytest.raises(UsageError) as caught:
        run_command(["watch", str(run), "--once", "--settle", "0", *given])
    assert says in str(caught.value) + caught.value.hint
    assert sorted(path.name for path in run.iterdir()) == ["step-100", "step-200"]


def test_what_cannot_be_written_or_listed_is_exit_2(run: Path, tmp_path: Path) -> None:
    result = run_cli(
        *("watch", str(run), "--once", "--settle", "0"),
        *("--write-latest", str(tmp_path / "no" / "latest")),
    )
    assert result.code == 2
    assert "--write-latest" in result.err
    assert "No such file or directory" in result.err
    assert len(events(result.out)) == 3
    result = run_cli("watch", str(tmp_path / "gone"), "--once")
    assert result.code == 2
    assert [e["event"] for e in events(result.out)] == ["unreachable"]


@pytest.mark.slow
def test_a_command_that_fails_is_told_and_ends_nothing(run: Path) -> None:
    flip(run / "step-100")
    for command, says in (
        (f"{sys.executable} -c 'import sys; sys.exit(3)'", "exit code 3"),
        ("/no/such", "No such"),
    ):
        result = run_cli(
            *("watch", str(run), "--once", "--deep", "--settle", "0", "--on-damage", command)
        )
        assert says in result.err
        shutil.rmtree(os.environ["XDG_STATE_HOME"])
        assert result.code == 0  # The newest step is sound.


def test_a_name_that_is_no_text_is_remembered(run: Path) -> None:
    os.rename(run / "step-100", os.fsencode(run) + b"/step-100-\x80")
    told = events(run_cli("watch", str(run), "--once", "--settle", "0").out)
    assert [e["event"] for e in told] == ["step", "step", "latest"]
    again = run_cli("watch", str(run), "--once", "--settle", "0")
    assert ([e["event"] for e in events(again.out)], again.err) == (["latest"], "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_follows_until_it_is_stopped(run: Path, tmp_path: Path, number: int) -> None:
    out = tmp_path / "out"
    argv = [sys.executable, "-m", "inspector", "watch", str(run), "--settle", "0"]
    with open(out, "w") as file:
        process = subprocess.Popen([*argv, "--interval", "0.2"], stdout=file)
    try:
        wait_for(lambda: '"latest"' in out.read_text())
        shutil.copytree(GOOD, tmp_path / "new")
        (tmp_path / "new").rename(run / "step-300")
        wait_for(lambda: events(out.read_text())[-1]["path"] == "step-300")
        shutil.rmtree(run / "step-100")
        wait_for(lambda: events(out.read_text())[-1]["event"] == "gone")
    finally:
        process.send_signal(number)
    assert process.wait(300) == 0


def test_a_pace_is_kept_over_all_threads() -> None:
    clock = [0.0]

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    pace = Pace(100.0, lambda: clock[0], sleep)
    for _ in range(5):
        pace.take(50)
    # The last begins when the four before it are paid.
    assert clock[0] == pytest.approx(2.0)


def test_data_files_are_read_at_a_pace(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(range(100)))
    with paced(1e12):
        file = open_file(LocalStorage(str(tmp_path)), "x")
    buffer = bytearray(10)
    assert (file.readinto(20, memoryview(buffer)), bytes(buffer)) == (10, bytes(range(20, 30)))
    assert type(file) is not type(open_file(LocalStorage(str(tmp_path)), "x"))
    file.close()
