"""Whatever a server does: a command ends, within bounds, with the right exit code."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.conftest import ROOT, SAMPLES
from tests.remote.clouds import AZURE_ACCOUNT, AZURE_KEY
from tests.remote.faulty_server import FAULTS, faulty_server
from tests.remote.s3_server import KEYS

SAMPLE = SAMPLES / "hsdp_2x2"
MAX_S = 240
MAX_BYTES = 300 << 20

#: Faults that do not touch what a command reads, by scheme.
_OF_LISTINGS = {"endless-listing-page", "same-token", "no-end", "deep-listing-page"}
_OF_HEADS = {"head-fails", "no-range"}
_NOT = {
    "http": _OF_LISTINGS,
    "s3": _OF_HEADS,
    "gs": _OF_HEADS,
    "az": _OF_HEADS,
}
CASES = [(scheme, fault) for scheme in _NOT for fault in FAULTS if fault not in _NOT[scheme]]


def run(url: str, *args: str, env: dict[str, str]) -> tuple[int, float, int, str, str]:
    """A command watched: exit code, seconds, peak resident bytes, stdout, stderr."""
    argv = [sys.executable, "-m", "inspector", *args, url]
    began, peak = time.monotonic(), 0
    process = subprocess.Popen(
        argv, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    seen = psutil.Process(process.pid)
    try:
        while process.poll() is None and time.monotonic() - began < 2 * MAX_S:
            try:
                peak = max(peak, seen.memory_info().rss)
            except psutil.Error:
                break
            assert peak < 4 * MAX_BYTES, "without bounds"
            time.sleep(0.02)
        out, err = process.communicate(timeout=MAX_S)
    finally:
        process.kill()
    return process.returncode, time.monotonic() - began, peak, out, err


def environment(tmp_path: Path, url: str) -> dict[str, str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    none = str(tmp_path / "none")
    return {
        **env,
        **KEYS,
        "AWS_SESSION_TOKEN": "never-a-real-token",
        "AWS_ENDPOINT_URL": url,
        "AWS_CONFIG_FILE": none,
        "AWS_SHARED_CREDENTIALS_FILE": none,
        "STORAGE_EMULATOR_HOST": url,
        "NO_GCE_CHECK": "true",
        "CLOUDSDK_CONFIG": none,
        "AZURE_STORAGE_CONNECTION_STRING": (
            f"DefaultEndpointsProtocol=http;AccountName={AZURE_ACCOUNT};AccountKey={AZURE_KEY};"
            f"BlobEndpoint={url}/{AZURE_ACCOUNT};"
        ),
    }


_PACKAGES = {"http": "aiohttp", "s3": "s3fs", "gs": "gcsfs", "az": "adlfs"}


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "fault"), CASES)
def test_every_command_ends(scheme: str, fault: str, tmp_path: Path) -> None:
    pytest.importorskip(_PACKAGES[scheme])
    with faulty_server(SAMPLE, fault) as (address, server):
        url = f"{address}/ckpt" if scheme == "http" else f"{scheme}://ckpt"
        env = environment(tmp_path, address)
        for args in (("check", "--deep"), ("show",)):
            code, elapsed_s, peak, out, err = run(url, *args, env=env)
            said = err.strip().partition("\n")[0][:160]
            print(  # noqa: T201 - the table
                f"| {scheme} | {fault} | {args[0]} | {code} | {elapsed_s:.1f} s "
                f"| {peak >> 20} MiB | {said} |"
            )
            assert elapsed_s < MAX_S and peak < MAX_BYTES, (args, elapsed_s, peak)
            assert "Traceback" not in err and "internal error" not in err
            is_touched = args[0] == "check" or fault in _LISTED[scheme]
            if fault == "none" or not is_touched:
                assert code == 0, (out, err)
            elif fault in ("endless-error",):
                # A refusal is what a refusal is: the file may not be read.
                assert code in (1, 2), (out, err)
            else:
                assert code == 2, (out, err)
                assert "damaged" not in out
            if fault == "redirect-away":
                assert KEYS["AWS_SECRET_ACCESS_KEY"] not in out + err
                assert AZURE_KEY not in out + err
        if fault == "redirect-away":
            server.kill()
            assert server.stdout is not None
            for line in server.stdout:
                # Several answer at a time: lines may stand in one.
                assert not line.replace("AWAY", "").strip(), line


#: Faults that `show` meets: it lists, asks for sizes, and reads the metadata alone.
_LISTED = {
    "http": {"head-fails", "redirect-loop", "redirect-away", "storm", "drip-headers"}
    | {"large-number", "etag", "endless-error"},
    "s3": {*_OF_LISTINGS, "storm", "etag", "large-number"},
    "gs": {*_OF_LISTINGS, "storm", "etag", "large-number"},
    "az": {*_OF_LISTINGS, "storm", "etag", "large-number"},
}
