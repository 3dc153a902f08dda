"""What one comes for, at 80x24, in as few keys as are told of; every answer is on the screen."""

from __future__ import annotations

import re

import pytest

from tests.conftest import SAMPLES
from tests.tui.app_driver import opened, press, until, words

#: A checkpoint or a run, the keys, and what is to be said after them.
JOBS = {
    "which step can I resume": (
        "run",
        [],
        r"newest sound: step-200, bytes unread .*step-200 200 complete metadata sound",
    ),
    "why does it fail": (
        "broken/chunk_gap",
        ["3"],
        r"ERROR chunk-gap model.net1.weight: 20 of 40 elements lie in no chunk",
    ),
    "who wrote this chunk at which byte": (
        "hsdp_2x4",
        ["enter", "l"],
        r"box \[0:2, 0:5\] chunk 0 of 4 rank 0 file __0_0.distcp bytes at 0, 1577 long",
    ),
    "does it load on the mesh that wrote it, and with how much memory": (
        "hsdp_2x4",
        ["5"],
        (
            r"loads on hsdp:2x4, as far as metadata tells; memory at most 1\.7 KiB a rank "
            r"8 ranks read 2\.00x the checkpoint; .* Peak mem .* 0 R0 S0 144 B 9\.2 KiB 2 6 - "
        ),
    ),
    "does it load on hsdp:2x4, and with how much memory": (
        "fsdp_8",
        ["5", "f"],
        (
            r"loads on hsdp:2x4, as far as metadata tells; memory at most \d+\.\d KiB a rank "
            r".* written by fsdp:8: "
        ),
    ),
    "does a damaged one load": (
        "broken/chunk_gap",
        ["5"],
        (
            r"goes wrong on fsdp:4, 1 error; memory at most 1\.7 KiB a rank .* "
            r"20 of 40 elements lie in no chunk; ranks 2-3 miss 10 elements each "
            r"\(torch: loads silently, those elements left uninitialised\)"
        ),
    ),
    "find the NaN": (
        "broken/values_nan",
        ["7", "u", "enter"],
        r"\[1, 2\] = nan chunk 0 in __0_0.distcp",
    ),
    "compare with the step before": (
        "run/step-200",
        ["D", "enter", "c"],
        r"all 69 rows .*(EXACT|DIFFER|CLOSE) \d",
    ),
}


@pytest.mark.parametrize("job", JOBS)
async def test_a_job_takes_few_keys(job: str) -> None:
    path, keys, said = JOBS[job]
    async with opened(SAMPLES / path, size=(80, 24)) as (app, pilot):
        for key in keys:
            await press(pilot, key)
        await until(pilot, lambda: bool(re.search(said, words(app))), 60)
