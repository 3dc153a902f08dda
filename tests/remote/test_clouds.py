"""Checkpoints on `gs://` and `az://`, against emulators of both: requests, bytes, faults.

`gs://` needs gcsfs and gcp-storage-emulator, which the dev extra brings. `az://` runs where
AZURITE_ENDPOINT names a running Azurite (`npx azurite-blob --skipApiVersionCheck`, then
AZURITE_ENDPOINT=http://127.0.0.1:10000) and adlfs is installed.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from inspector.checkpoint.dcp import read_dcp
from inspector.checkpoint.find.locate import folder_of, locate
from inspector.checkpoint.storage.opening import open_storage
from inspector.checkpoint.workers import until
from inspector.errors import Cancelled
from tests.conftest import SAMPLES, run_cli, run_process, some_fast
from tests.remote.clouds import AZURE_KEY, AZURITE, Azure, Cloud, azure, google
from tests.remote.s3_server import S3Server
from tests.remote.said import plain
from tests.remote.watched import Asked, closed_port, silent_server, times
from tests.tui.app_driver import opened, screen_text, words
from tests.tui.app_driver import until as until_shown

SAMPLE = SAMPLES / "hsdp_2x4"


CLOUDS = ["gs", *(["az"] if AZURITE else [])]


@pytest.fixture(scope="session")
def _gs() -> Iterator[Cloud]:
    with google() as running:
        yield running


@pytest.fixture(scope="session")
def _az() -> Iterator[Cloud]:
    with azure() as running:
        yield running


def _lead_to(running: Cloud, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    """Nothing is asked of it yet; this process and its children go to it."""
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "FSSPEC_GS", "FSSPEC_AZ", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("CONNECTION_STRING", "ACCOUNT_NAME", "ACCOUNT_KEY", "SAS_TOKEN", "CLIENT_ID"):
        monkeypatch.delenv(f"AZURE_STORAGE_{name}", raising=False)
    for name, value in running.env().items():
        monkeypatch.setenv(name, value)
    running.forget()
    return running


@pytest.fixture(params=CLOUDS)
def cloud(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    return _lead_to(request.getfixturevalue(f"_{request.param}"), monkeypatch)


@pytest.fixture
def sample(cloud: Cloud) -> str:
    return cloud.put_folder(SAMPLE, "sample")


@pytest.fixture(params=["s3", *CLOUDS])
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Cloud | S3Server:
    """Any of them, with the server of S3's own tests."""
    if request.param == "s3":
        return request.getfixturevalue("s3")
    return _lead_to(request.getfixturevalue(f"_{request.param}"), monkeypatch)


@pytest.fixture
def stored(store: Cloud | S3Server) -> str:
    return store.put_folder(SAMPLE, "sample")


# --- what it costs


@pytest.mark.parametrize("command", some_fast(["show", "check"], ["show"]))
def test_opening_is_a_listing_and_a_metadata_read(
    command: str, store: Cloud | S3Server, stored: str
) -> None:
    ran = run_cli(command, stored, "--json")
    assert ran.code == 0 and ran.err == ""
    assert [a.is_listing for a in store.asked] == [True, False], store.asked
    assert store.object_bytes == (SAMPLE / ".metadata").stat().st_size


@pytest.mark.slow
def test_it_is_shown_as_the_local_copy_is(store: Cloud | S3Server, stored: str) -> None:
    remote, local = (run_cli("show", p, "--json", "--chunks").json() for p in (stored, SAMPLE))
    assert remote["checkpoint"].pop("path") == stored
    del local["checkpoint"]["path"]
    for document in (remote, local):
        # What lies beside the folder differs.
        document["checkpoint"].pop("framework", None)
    assert remote == local


@pytest.mark.slow
def test_deep_reads_every_byte_once(store: Cloud | S3Server, stored: str) -> None:
    ran = run_cli("check", "--deep", "--json", stored)
    assert ran.code == 0
    checked = ran.json()["checked"]
    assert checked["payloads"] == 24 and checked["not_checked"] == []
    assert len(store.asked) == 2 + 8
    assert store.object_bytes == sum(path.stat().st_size for path in SAMPLE.iterdir())
    used = {"requests": len(store.asked), "bytes": store.object_bytes, "failed": 0}
    assert checked["storage"] == used


def test_statistics_of_one_tensor_read_its_payloads(cloud: Cloud, sample: str) -> None:
    ran = run_cli("stats", "--json", "--filter", "net1.weight", sample)
    assert ran.code == 0
    assert ran.json() == run_cli("stats", "--json", "--filter", "net1.weight", SAMPLE).json()
    checkpoint = read_dcp(folder_of(str(SAMPLE)))
    tensor = checkpoint.tensors[checkpoint.columns.fqns.index("model.net1.weight")]
    least = sum(tensor.byte_length.tolist()) + (SAMPLE / ".metadata").stat().st_size
    assert len(cloud.asked) == 2 + len(set(tensor.file.tolist()))
    assert cloud.object_bytes == least


@pytest.mark.slow
def test_a_difference_is_two_openings(cloud: Cloud, sample: str) -> None:
    other = cloud.put_folder(SAMPLES / "hsdp_2x2", "other")
    ran = run_cli("diff", sample, other)
    assert ran.code == run_cli("diff", SAMPLE, SAMPLES / "hsdp_2x2").code
    assert "same structure" in ran.out
    assert len(cloud.asked) == 4, cloud.asked


def test_a_folder_is_listed_without_its_longer_namesakes(cloud: Cloud) -> None:
    """`step-1` is the beginning of `step-10`'s name."""
    url = cloud.put_folder(SAMPLE, "names/step-1")
    for name in ("step-10", "step-11"):
        cloud.put_folder(SAMPLES / "hsdp_2x2", f"names/{name}")
    assert len(run_cli("show", url, "--json").json()["files"]) == 8
    assert len(cloud.asked) == 2, cloud.asked


@pytest.mark.slow
def test_a_run_folder_is_two_listings(store: Cloud | S3Server) -> None:
    url = store.put_folder(SAMPLES / "run", "run")
    found = locate(url)
    assert isinstance(found, list)
    assert [(item.path, item.state) for item in found] == [
        ("step-100", "complete"),
        ("step-200", "complete"),
        ("step-300", "unfinished"),
    ]
    assert len(store.asked) == len(store.listings) == 2, store.asked


@pytest.mark.slow
def test_the_bucket_itself_is_a_run_folder(cloud: Cloud, sample: str) -> None:
    ran = run_cli("show", f"{cloud.scheme}://{cloud.bucket}")
    assert ran.code == 0 and "sample" in ran.out
    assert len(cloud.asked) == 2, cloud.asked


def test_markers_of_folders_are_no_files(cloud: Cloud) -> None:
    for name in ("marked/", "marked/below/", "marked/below/f", "marked/g"):
        cloud.put(name, b"")
    storage = open_storage(f"{cloud.scheme}://{cloud.bucket}/marked")
    found = [(entry.name, entry.kind) for entry in storage.list()]
    assert found == [("below", "folder"), ("g", "file")]
    assert [(entry.name, entry.kind) for entry in storage.list("below")] == [("f", "file")]


def test_the_metadata_file_itself_is_its_folder(stored: str) -> None:
    ran = run_cli("show", f"{stored}/.metadata", "--json")
    assert ran.json()["checkpoint"]["path"] == stored


def test_a_range_ends_where_the_file_does(cloud: Cloud) -> None:
    cloud.put("ranges/f", b"0123456789")
    for name in ("listed", "unlisted"):
        storage = open_storage(f"{cloud.scheme}://{cloud.bucket}/ranges")
        if name == "listed":
            storage.list()
        assert storage.read("f") == b"0123456789"
        assert storage.read("f", 3, 4) == b"3456"
        assert storage.read("f", 8, 4) == b"89"
        assert storage.read("f", 10, 4) == storage.read("f", 20, 4) == b""


# --- what goes wrong


@pytest.mark.slow
@pytest.mark.parametrize("fault", [502, 503, "reset"])
def test_a_bad_moment_passes(fault: int | str, cloud: Cloud, sample: str) -> None:
    cloud.fault = times(2, fault)
    ran = run_cli("show", sample)
    assert ran.code == 0 and ran.err == ""
    assert len(cloud.asked) == 2 + 2, cloud.asked


@pytest.mark.slow
def test_answers_that_break_off_are_asked_for_again(cloud: Cloud, sample: str) -> None:
    cloud.fault = times(6, "cut", lambda asked: ".distcp" in asked.path)
    ran = run_cli("check", "--deep", "--json", sample)
    assert ran.code == 0
    checked = ran.json()["checked"]
    assert checked["payloads"] == 24 and checked["storage"]["failed"] == 0
    assert checked["storage"]["requests"] == 10 + 6 == len(cloud.asked)


@pytest.mark.slow
@pytest.mark.parametrize(("status", "requests"), [(401, 1), (403, 1), (503, 5)])
def test_it_is_asked_no_oftener_than_it_helps(
    status: int, requests: int, cloud: Cloud, sample: str
) -> None:
    """The libraries' own tries, four and six with pauses of up to half a minute, are off."""
    cloud.fault = lambda _: status
    err = plain(run_cli("show", sample))
    assert len(cloud.asked) == requests
    assert str(status) in err
    if status < 500:
        assert "permission denied" in err and cloud.hint in err


def test_a_file_that_may_not_be_read_is_a_finding(cloud: Cloud, sample: str) -> None:
    cloud.fault = times(1000, 403, lambda asked: "__3_0" in asked.path)
    ran = run_cli("check", "--deep", "--json", sample)
    assert ran.code == 1
    assert {f["file"] for f in ran.json()["findings"]} == {"__3_0.distcp"}
    assert "permission denied" in ran.json()["findings"][0]["message"]


@pytest.mark.slow
def test_it_dies_halfway(cloud: Cloud, sample: str) -> None:
    def dead(asked: Asked) -> str | None:
        return "reset" if len(cloud.asked) > 5 else None

    cloud.fault = dead
    ran = run_cli("check", "--deep", "--json", sample)
    assert ran.code == 2 and "did not answer" in ran.err and "Traceback" not in ran.err
    document = ran.json()
    assert document["findings"] == []
    assert 0 < document["checked"]["payloads"] < 24
    assert document["checked"]["storage"]["failed"] > 0


@pytest.mark.slow
def test_what_is_not_there(cloud: Cloud, sample: str) -> None:
    no_bucket = plain(run_cli("show", f"{cloud.scheme}://no-such-bucket/x"))
    assert "there is no such bucket" in no_bucket or "there is no such container" in no_bucket
    assert len(cloud.asked) == 1
    cloud.forget()
    nothing = plain(run_cli("show", f"{cloud.scheme}://{cloud.bucket}/no/such/prefix"))
    assert "there is no such file or folder" in nothing
    assert len(cloud.asked) == 2


@pytest.mark.slow
def test_nothing_listens(cloud: Cloud, sample: str) -> None:
    address = closed_port()
    err = plain(run_cli("show", sample, env=cloud.env(address)))
    assert f"no connection to {address}" in err


@pytest.mark.slow
def test_it_never_answers(cloud: Cloud, sample: str) -> None:
    # A user's own patience holds; without it, two tries of ten seconds are made.
    with silent_server() as address:
        env = {
            **cloud.env(address),
            "FSSPEC_GS": '{"requests_timeout": 1}',
            "FSSPEC_AZ": '{"read_timeout": 1}',
        }
        err = plain(run_process("show", sample, env=env, timeout_s=60))
    assert f"{address} does not answer" in err


def test_a_wrong_key_is_refused_and_not_shown(
    cloud: Cloud, sample: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not isinstance(cloud, Azure):
        pytest.skip("the emulator asks for no credentials")
    wrong = AZURE_KEY.replace("Eby8", "Eby9")
    env = {"AZURE_STORAGE_CONNECTION_STRING": cloud.connection(cloud.url, wrong)}
    err = plain(run_cli("show", sample, env=env))
    assert "may not read it (AuthorizationFailure)" in err and wrong not in err
    malformed = {"AZURE_STORAGE_CONNECTION_STRING": f"AccountKey={wrong};foo"}
    assert wrong not in plain(run_cli("show", sample, env=malformed))
    monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING")
    assert "no storage account is named" in plain(run_cli("show", sample))


def test_a_thread_stops_waiting_when_it_is_told(cloud: Cloud, sample: str) -> None:
    answer = threading.Event()
    storage = open_storage(sample)
    storage.list()
    cloud.fault = lambda _: answer
    try:
        with until(lambda: bool(cloud.asked[1:])), pytest.raises(Cancelled):
            storage.read("__0_0.distcp", 0, 100)
    finally:
        answer.set()
    cloud.fault = None
    assert storage.read("__0_0.distcp", 0, 4) == b"PK\x03\x04"


# --- other doors


@pytest.mark.slow
async def test_the_screen_opens_it_and_checks_its_bytes(cloud: Cloud, sample: str) -> None:
    async with opened(sample) as (app, pilot):
        assert sample in screen_text(app)
        assert len(cloud.asked) == 2, cloud.asked
        await pilot.press("c")
        await until_shown(pilot, lambda: "every byte read" in words(app))
        # What lies there now is opened first: the listing, the metadata.
        assert len(cloud.asked) == 2 + 2 + 8


@pytest.mark.torchrun
def test_two_ranks_load_it_from_there(cloud: Cloud) -> None:
    url = cloud.put_folder(SAMPLES / "hsdp_2x2", "verified")
    ran = run_process("verify", url, "--mesh", "fsdp:2", "--json")
    assert ran.code == 0, ran.err
    result = json.loads(ran.out.splitlines()[-1])
    assert result["verdict"] == "exact" and result["world_size"] == 2
    assert cloud.object_bytes


@pytest.mark.slow
def test_azurite_is_what_answers() -> None:
    with azure() as cloud, cloud.client() as client:
        headers: list[str] = []
        client.get_account_information(
            raw_response_hook=lambda answer: headers.append(answer.http_response.headers["Server"])
        )
    assert headers[0].startswith("Azurite-Blob")


# --- without a server


@pytest.mark.parametrize(
    ("url", "package", "extra"),
    [("gs://b/x", "gcsfs", "gcs"), ("az://b/x", "adlfs", "azure"), ("s3://b/x", "s3fs", "s3")],
)
def test_what_is_not_installed_is_named(url: str, package: str, extra: str, tmp_path: Path) -> None:
    (tmp_path / f"{package}.py").write_text(f"raise ImportError('no {package}')")
    err = plain(run_process("show", url, env={"PYTHONPATH": str(tmp_path)}))
    assert "needs a package that is not installed" in err
    assert f"pip install 'hsdp-inspect[{extra}]'" in err


def test_a_library_that_takes_its_time_can_be_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """gcsfs looks for credentials as it is made, and cannot be interrupted."""
    held = threading.Event()
    monkeypatch.setattr("fsspec.core.url_to_fs", lambda *_, **__: held.wait(30))
    try:
        with until(lambda: True), pytest.raises(Cancelled):
            open_storage("memory://bucket/folder")
    finally:
        held.set()
