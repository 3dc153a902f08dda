"""A checkpoint on S3 is verified by DCP's own reader over our bounded storage, in a real job."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.checks.test_stale_dtype import recorded, saved
from tests.conftest import SAMPLES, run_process
from tests.remote.s3_server import S3Server


@pytest.mark.torchrun
def test_two_ranks_load_it_from_there(s3: S3Server) -> None:
    url = s3.put_folder(SAMPLES / "hsdp_2x2", "verified")
    ran = run_process("verify", url, "--mesh", "fsdp:2", "--json")
    assert ran.code == 0, ran.err
    events = [json.loads(line) for line in ran.out.splitlines()]
    assert events[0]["event"] == "spec" and events[0]["path"] == url
    result = events[-1]
    assert result["verdict"] == "exact" and result["world_size"] == 2
    assert result["tensors"]["verified"] == result["tensors"]["total"] == 6
    # fsspec's own files, which have no bounds, would ask for a file's size with HEAD.
    assert {a.method for a in s3.asked} == {"GET"}
    assert not any("AWS" in line for line in ran.out.splitlines()), "a job records no credentials"


@pytest.mark.slow
@pytest.mark.torchrun
def test_a_dtype_that_plan_caching_kept_is_exact_there_too(s3: S3Server, tmp_path: Path) -> None:
    folder = saved(tmp_path / "kept", torch.float16, torch.bfloat16)
    if recorded(folder, "w.kept") == torch.bfloat16:
        pytest.skip("this torch does not keep it")
    url = s3.put_folder(folder, "kept")
    ran = run_process("verify", url, "--mesh", "fsdp:2", "--json")
    result = json.loads(ran.out.splitlines()[-1])
    assert (ran.code, result["verdict"]) == (0, "exact"), ran.out[-2000:]
