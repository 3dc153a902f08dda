"""A checkpoint on S3 is verified by DCP's own fsspec reader, in a real job."""

from __future__ import annotations

import json

import pytest

from tests.conftest import SAMPLES, run_cli
from tests.remote.s3_server import S3Server


@pytest.mark.torchrun
def test_two_ranks_load_it_from_there(s3: S3Server) -> None:
    url = s3.put_folder(SAMPLES / "hsdp_2x2", "verified")
    ran = run_cli("verify", url, "--mesh", "fsdp:2", "--json", timeout_s=180)
    assert ran.code == 0, ran.err
    events = [json.loads(line) for line in ran.out.splitlines()]
    assert events[0]["event"] == "spec" and events[0]["path"] == url
    result = events[-1]
    assert result["verdict"] == "exact" and result["world_size"] == 2
    assert result["tensors"]["verified"] == result["tensors"]["total"] == 6
    # torch's reader looks at a file's size before it opens it; ours never does.
    assert {a.method for a in s3.asked} == {"HEAD", "GET"}
    assert not any("AWS" in line for line in ran.out.splitlines()), "a job records no credentials"
