"""A checkpoint behind a web server, which lists nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from inspector.checkpoint.dcp import read_dcp
from inspector.checkpoint.find.locate import folder_of
from inspector.checkpoint.payload.array import read_chunk
from inspector.checkpoint.storage.opening import open_storage
from inspector.checkpoint.storage.remote import http as storage_http
from inspector.checks.payload.payloads import check_payloads
from inspector.errors import StorageError
from tests.conftest import SAMPLES, run_cli
from tests.remote.http_files import HttpFiles, http_files
from tests.remote.watched import Watched, relay, silent_server, times

SAMPLE = SAMPLES / "hsdp_2x4"


@pytest.fixture
def web() -> Iterator[HttpFiles]:
    with http_files(SAMPLE) as files:
        yield files


def test_showing_it_asks_for_the_metadata_and_each_size(web: HttpFiles) -> None:
    ran = run_cli("show", "--json", web.url)
    assert ran.code == 0 and ran.err == ""
    assert [f["num_bytes"] for f in ran.json()["files"]] == [
        (SAMPLE / f"__{rank}_0.distcp").stat().st_size for rank in range(8)
    ]
    assert web.asked[0] == "HEAD /ckpt/.metadata -> 200"
    assert web.asked[1].startswith("GET /ckpt/.metadata ")
    assert sorted(web.asked[2:]) == [f"HEAD /ckpt/__{r}_0.distcp -> 200" for r in range(8)]


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("head", [True, False])
def test_every_byte_is_read_whatever_the_server_knows(
    ranges: bool, head: bool, web: HttpFiles
) -> None:
    web.ranges, web.head = ranges, head
    ran = run_cli("check", "--deep", "--json", web.url)
    assert ran.code == 0
    document = ran.json()
    assert document["verdict"] == "sound" and document["checked"]["payloads"] == 24
    assert document["checked"]["storage"]["requests"] == len(web.asked)
    # What a listing would have told is said to be unknown.
    assert ["beside" in left["what"] for left in document["checked"]["not_checked"]] == [True]


def test_a_missing_file_and_a_cut_one_are_found(tmp_path: Path) -> None:
    for path in SAMPLE.iterdir():
        if path.name != "__4_0.distcp":
            data = path.read_bytes()
            (tmp_path / path.name).write_bytes(data[:-1] if path.name == "__5_0.distcp" else data)
    with http_files(tmp_path) as files:
        ran = run_cli("check", "--json", files.url)
    assert ran.code == 1
    found = {(f["code"], f["file"]) for f in ran.json()["findings"] if f["severity"] == "error"}
    assert found == {("file-missing", "__4_0.distcp"), ("file-truncated", "__5_0.distcp")}


@pytest.mark.slow
def test_a_password_and_a_signature_open_it_and_are_not_shown(web: HttpFiles) -> None:
    web.password, web.query = "user:sesame", "sig=opensesame"
    url = web.url.replace("://", "://user:sesame@") + "?sig=opensesame"
    ran = run_cli("check", "--deep", url)
    assert ran.code == 0, ran
    assert "sesame" not in ran.out + ran.err
    assert run_cli("show", "--json", url).json()["checkpoint"]["path"].startswith("http://***@")
    for wrong in (web.url, web.url + "?sig=opensesame"):
        denied = run_cli("show", wrong)
        assert denied.code == 2 and "permission denied (40" in denied.err
    refused = run_cli("verify", url, "--mesh", "fsdp:2")
    assert refused.code == 2
    assert "password" in refused.err and "sesame" not in refused.out + refused.err


def test_what_is_not_there(web: HttpFiles) -> None:
    ran = run_cli("show", web.url + "/nothing")
    assert ran.code == 2 and "no such file" in ran.err and "no folder can be listed" in ran.err


def test_the_metadata_file_itself(web: HttpFiles) -> None:
    ran = run_cli("show", "--json", web.url + "/.metadata")
    assert ran.code == 0 and ran.json()["checkpoint"]["path"] == web.url


def test_a_large_file_is_not_fetched_whole_for_each_range(tmp_path: Path) -> None:
    with open(tmp_path / "large", "wb") as file:
        file.truncate(20 << 20)
    with http_files(tmp_path) as files:
        files.ranges = False
        storage = open_storage(files.url)
        with pytest.raises(StorageError, match="answers a range with the whole file") as raised:
            storage.read("large", 5, 10)
        assert raised.value.hint
        assert len(files.asked) == 1


def test_values_come_by_ranges(web: HttpFiles) -> None:
    storage, local = folder_of(web.url), folder_of(str(SAMPLE))
    checkpoint = read_dcp(storage)
    web.asked.clear()
    tensor = checkpoint.tensors[0]
    there, here = (read_chunk(checkpoint, s, tensor, 0) for s in (storage, local))
    assert (there == here).all()
    assert len(web.asked) == 1
    assert not check_payloads(checkpoint, storage).findings


def test_answers_that_break_off_are_asked_for_again(web: HttpFiles) -> None:
    watched = Watched(fault=times(6, "cut", lambda a: a.is_object and ".distcp" in a.path))
    with relay(watched, web.url):
        ran = run_cli("check", "--deep", "--json", watched.url)
    assert ran.code == 0, ran
    checked = ran.json()["checked"]
    assert checked["payloads"] == 24 and checked["storage"]["failed"] == 0
    assert checked["storage"]["requests"] == len(watched.asked)


def test_a_server_that_never_answers_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice the longest silence; aiohttp itself would wait for five minutes, each time."""
    monkeypatch.setattr(storage_http, "READ_TIMEOUT_S", 0.3)
    with silent_server() as address:
        storage = open_storage(f"{address}/ckpt")
        with pytest.raises(StorageError, match=f"{address} does not answer"):
            storage.list()
        assert storage.used is not None and storage.used.requests == 2


def test_what_is_opened_anew_is_opened_as_it_was(web: HttpFiles) -> None:
    """Reloading, comparing and judging take the path as it is shown, without its secrets."""
    web.password, web.query = "user:sesame", "sig=opensesame"
    storage = open_storage(web.url.replace("://", "://user:sesame@") + "?sig=opensesame")
    assert "sesame" not in storage.root
    again = open_storage(storage.root)
    assert again.read(".metadata") == (SAMPLE / ".metadata").read_bytes()
    assert again.root == storage.root
    below = open_storage(storage.join("deep").root)
    with pytest.raises(StorageError, match="no such file"):  # Not: permission denied.
        below.read(".metadata")


def test_a_signed_address_is_not_handed_to_a_job(web: HttpFiles) -> None:
    web.query = "sig=opensesame"
    ran = run_cli("verify", web.url + "?sig=opensesame", "--mesh", "fsdp:2")
    assert ran.code == 2
    assert "a password or a signature" in ran.err and "sesame" not in ran.err


@pytest.mark.parametrize(
    "scheme", ["dir", "local", "data", "zip", "simplecache", "reference", "github", "foo", "DIR"]
)
def test_an_address_that_is_no_storage_of_folders(scheme: str) -> None:
    ran = run_cli("show", f"{scheme}://x/y")
    assert ran.code == 2 and ran.out == ""
    assert f"{scheme.lower()}:// is not a known scheme" in ran.err
    assert len(ran.err.splitlines()) == 2
