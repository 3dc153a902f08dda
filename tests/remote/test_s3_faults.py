"""What goes wrong between here and S3: tried again, told plainly, stopped at once."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from inspector.checkpoint.dcp import read_dcp
from inspector.checkpoint.find.locate import folder_of
from inspector.checkpoint.payload.source import open_file
from inspector.checkpoint.storage.opening import open_storage
from inspector.checkpoint.workers import until
from inspector.checks.payload.payloads import check_payloads
from inspector.errors import Cancelled, UnreachableError
from inspector.tui.session import Loading
from tests.conftest import ROOT, SAMPLES, run_cli, run_process
from tests.remote.s3_server import BUCKET, S3Server
from tests.remote.said import plain
from tests.remote.watched import Asked, Watched, closed_port, relay, silent_server, times

SAMPLE = SAMPLES / "hsdp_2x4"


@pytest.fixture
def sample(s3: S3Server) -> str:
    return s3.put_folder(SAMPLE, "sample")


# --- tried again


@pytest.mark.parametrize("fault", [500, 503, "reset"])
def test_a_bad_moment_passes(fault: int | str, s3: S3Server, sample: str) -> None:
    s3.fault = times(2, fault)
    ran = run_cli("show", sample)
    assert ran.code == 0 and ran.err == ""


@pytest.mark.slow
def test_a_bad_moment_in_the_midst_of_reading_passes(s3: S3Server, sample: str) -> None:
    s3.fault = times(6, 503, lambda asked: ".distcp" in asked.path)
    ran = run_cli("check", "--deep", "--json", sample)
    assert ran.code == 0
    checked = ran.json()["checked"]
    assert checked["payloads"] == 24 and checked["storage"]["failed"] == 0
    assert checked["storage"]["requests"] == 10 + 6 == len(s3.asked)


@pytest.mark.slow
def test_answers_that_break_off_are_asked_for_again(s3: S3Server, sample: str) -> None:
    watched = Watched(fault=times(6, "cut", lambda asked: ".distcp" in asked.path))
    with relay(watched, s3.url):
        ran = run_cli("check", "--deep", "--json", sample, env={"AWS_ENDPOINT_URL": watched.url})
    assert ran.code == 0, ran
    checked = ran.json()["checked"]
    assert checked["payloads"] == 24 and checked["storage"]["failed"] == 0
    assert checked["storage"]["requests"] == 10 + 6 == len(watched.asked)


@pytest.mark.slow
@pytest.mark.parametrize(("status", "requests"), [(403, 1), (503, 5)])
def test_what_will_not_change_is_not_tried_again(
    status: int, requests: int, s3: S3Server, sample: str
) -> None:
    s3.fault = lambda _: status
    plain(run_cli("show", sample))
    assert len(s3.asked) == requests


@pytest.mark.slow
def test_a_file_that_does_not_answer_is_not_called_damaged(s3: S3Server, sample: str) -> None:
    s3.fault = times(1000, 503, lambda asked: "__3_0" in asked.path)
    ran = run_cli("check", "--deep", "--json", sample)
    assert ran.code == 2
    assert "did not answer" in ran.err
    document = ran.json()
    assert document["findings"] == []
    assert document["checked"]["payloads"] == 21
    assert "3 payloads of __3_0.distcp" in document["checked"]["not_checked"][0]["what"]
    # Its three payloads came in one request, which was tried five times, not fifteen.
    assert sum("__3_0" in asked.path for asked in s3.asked) == 5


@pytest.mark.slow
def test_a_seal_of_what_does_not_answer_is_not_called_broken(
    s3: S3Server, sample: str, tmp_path: Path
) -> None:
    manifest = tmp_path / "s.json"
    assert run_cli("seal", SAMPLE, "--output", manifest).code == 0
    s3.fault = times(1000, 503, lambda asked: "__3_0" in asked.path)
    ran = run_cli("check", "--manifest", manifest, "--json", sample)
    assert ran.code == 2
    assert [f for f in ran.json()["findings"] if f["severity"] == "error"] == []
    left = ran.json()["checked"]["not_checked"]
    assert any("sealed entries" in item["what"] for item in left)


@pytest.mark.slow
def test_statistics_of_what_does_not_answer_are_no_answer(s3: S3Server, sample: str) -> None:
    """2, as of `check`: nothing is known to be wrong."""
    s3.fault = times(1000, 503, lambda asked: "__3_0" in asked.path)
    ran = run_cli("stats", "--json", sample)
    assert ran.code == 2
    assert "did not answer" in ran.err
    assert len(ran.json()["tensors"]) == 6
    assert {item["fqn"] for item in ran.json()["not_read"]} >= {"model.net1.weight"}
    # What may not be read is a fault of the checkpoint as it lies there.
    s3.fault = times(1000, 403, lambda asked: "__3_0" in asked.path)
    assert run_cli("stats", sample).code == 1


def test_a_file_that_may_not_be_read_is_a_finding(s3: S3Server, sample: str) -> None:
    s3.fault = times(1000, 403, lambda asked: "__3_0" in asked.path)
    ran = run_cli("check", "--deep", "--json", sample)
    assert ran.code == 1
    assert {f["file"] for f in ran.json()["findings"]} == {"__3_0.distcp"}
    assert "AccessDenied" in ran.json()["findings"][0]["message"]


# --- told plainly


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("s3://no-such-bucket/a", "there is no such bucket"),
        (f"s3://{BUCKET}/no/such/prefix", "there is no such file or folder"),
        ("s3://Bad_Bucket!/x", "can have such a name"),
        (f"s3://{BUCKET}/sample/.nothing", "there is no such file or folder"),
    ],
)
def test_what_is_not_there(path: str, said: str, s3: S3Server, sample: str) -> None:
    err = plain(run_cli("show", path))
    assert said in err and "hint:" in err
    assert len(s3.asked) <= 3


def test_a_data_file_is_no_checkpoint(s3: S3Server, tmp_path: object) -> None:
    s3.client().put_object(Bucket=BUCKET, Key="files/model.pt", Body=b"PK")
    err = plain(run_cli("show", f"s3://{BUCKET}/files/model.pt"))
    assert "is a file, not a checkpoint folder" in err and "torch.load" in err


def test_nothing_listens(s3: S3Server, sample: str) -> None:
    endpoint = closed_port()
    err = plain(run_cli("show", sample, env={"AWS_ENDPOINT_URL": endpoint}))
    assert f"no connection to {endpoint}" in err and "AWS_ENDPOINT_URL" in err


@pytest.mark.slow
def test_no_such_host(s3: S3Server, sample: str) -> None:
    err = plain(run_cli("show", sample, env={"AWS_ENDPOINT_URL": "http://no-such-host.invalid"}))
    assert "no connection to http://no-such-host.invalid" in err


@pytest.mark.slow
def test_it_never_answers(s3: S3Server, sample: str) -> None:
    # A user's own patience holds; without it, two tries of ten seconds are made.
    patience = '{"config_kwargs": {"read_timeout": 1}}'
    with silent_server() as endpoint:
        env = {"AWS_ENDPOINT_URL": endpoint, "FSSPEC_S3": patience}
        ran = run_process("show", sample, env=env, timeout_s=60)
    assert f"{endpoint} does not answer" in plain(ran)


def test_no_credentials(s3: S3Server, sample: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    err = plain(run_cli("show", sample))
    assert "no credentials for s3://" in err and "AWS_PROFILE" in err
    assert s3.asked == []


@pytest.mark.slow
def test_a_profile_that_is_not_there(s3: S3Server, sample: str) -> None:
    assert "nobody" in plain(run_cli("show", sample, env={"AWS_PROFILE": "nobody"}))


@pytest.mark.slow
def test_a_setting_of_fsspec_holds(s3: S3Server, sample: str) -> None:
    """The ecosystem's own ways: an endpoint in FSSPEC_S3_ENDPOINT_URL."""
    env = {"AWS_ENDPOINT_URL": closed_port(), "FSSPEC_S3_ENDPOINT_URL": s3.url}
    # fsspec reads them when it is imported.
    assert run_process("show", sample, env=env).code == 0


@pytest.mark.parametrize("debug", [[], ["--debug"]])
@pytest.mark.parametrize(
    "url",
    [
        "s3://AKIAKEY:se/cret+word@bucket/x",
        "http://user:se-cret-word@127.0.0.1:9/x?X-Amz-Signature=signed-word",
        "ftp://user:se-cret-word@127.0.0.1:9/x",
        "foo://user:se-cret-word@x",
    ],
)
def test_secrets_are_never_printed(url: str, debug: list[str]) -> None:
    ran = run_cli("check", url, *debug)
    assert ran.code == 2
    said = ran.out + ran.err
    assert said
    assert not re.search(r"se.?cret|signed-word", said), said


# --- stopped at once


def test_loading_is_cancelled_while_the_server_is_silent(s3: S3Server, sample: str) -> None:
    answer = threading.Event()
    s3.fault = lambda _: answer
    try:
        loading = Loading(sample).start()
        _wait(lambda: bool(s3.asked))
        loading.cancel()
        _wait(lambda: loading.outcome is not None)
        assert isinstance(loading.outcome, Cancelled)
    finally:
        answer.set()


@pytest.mark.slow
def test_deep_is_cancelled_while_the_server_is_silent(s3: S3Server, sample: str) -> None:
    storage = folder_of(sample)
    checkpoint = read_dcp(storage)
    answer = threading.Event()
    s3.forget()
    s3.fault = lambda _: answer
    try:
        report = check_payloads(checkpoint, storage, progress=lambda _: bool(s3.asked))
        assert report.is_cancelled
        assert report.checked.payloads == 0 and not report.findings
    finally:
        answer.set()


def test_a_thread_stops_waiting_when_it_is_told(s3: S3Server, sample: str) -> None:
    answer = threading.Event()
    storage = open_storage(sample)
    storage.list()
    s3.fault = lambda _: answer
    try:
        with until(lambda: bool(s3.asked[1:])), pytest.raises(Cancelled):
            open_file(storage, "__0_0.distcp").readinto(0, memoryview(bytearray(100)))
    finally:
        answer.set()
    # What was broken off is no failure: the next read is right.
    s3.fault = None
    assert storage.read("__0_0.distcp", 0, 4) == b"PK\x03\x04"


def test_ctrl_c_ends_the_command(s3: S3Server, sample: str) -> None:
    answer = threading.Event()
    s3.fault = lambda _: answer
    process = subprocess.Popen(
        [sys.executable, "-m", "inspector", "show", sample],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ},
    )
    try:
        _wait(lambda: bool(s3.asked))
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        answer.set()
        process.kill()
    assert (process.returncode, out, err.strip()) == (2, "", "hsdp-inspect: interrupted")


@pytest.mark.slow
def test_a_slow_answer_is_waited_for(s3: S3Server, sample: str) -> None:
    answer = threading.Event()

    def wait_once(asked: Asked) -> threading.Event | None:
        if answer.is_set():
            return None
        threading.Timer(1.0, answer.set).start()
        return answer

    s3.fault = wait_once
    assert run_cli("show", sample).code == 0
    assert len(s3.asked) == 2


@pytest.mark.slow
def test_an_error_names_what_was_read(s3: S3Server, sample: str) -> None:
    storage = open_storage(sample)
    storage.list()
    s3.fault = lambda _: 500
    with pytest.raises(UnreachableError, match=f"{sample}/__0_0.distcp: .* answers 500"):
        storage.read("__0_0.distcp", 0, 10)
    assert storage.used is not None and storage.used.num_failed == 1


def _wait(condition: object) -> None:
    assert callable(condition)
    waiting = threading.Event()
    for _ in range(400):
        if condition():
            return
        waiting.wait(0.05)
    raise AssertionError("it never came to be")
