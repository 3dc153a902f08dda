"""An export of what lies in S3 is the export of the same files on a disk."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from tests.conftest import run_process
from tests.diff.making import shards, write
from tests.remote.s3_server import S3Server

pytestmark = pytest.mark.slow


def test_it_is_what_the_disk_gives(s3: S3Server, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    state = {
        "rows": torch.randn(3000, 400, generator=generator),
        "columns": torch.randn(600, 2000, generator=generator),
        "small": torch.arange(5),
        "scalar": torch.tensor(3.0),
    }
    cuts = {"rows": shards((3000, 400), 0, 8), "columns": shards((600, 2000), 1, 8)}
    folder = write(tmp_path / "ck", state, cuts, num_files=4)
    url = s3.put_folder(folder, "exported")
    near = run_process("export", folder, tmp_path / "near", "--json")
    s3.forget()
    far = run_process("export", url, tmp_path / "far", "--json")
    assert (near.code, far.code) == (0, 0), far.err
    assert (tmp_path / "near").read_bytes() == (tmp_path / "far").read_bytes()
    assert near.json()["checksums"] == far.json()["checksums"]
    # No byte is fetched much more often than once, and no chunk's header by two threads.
    gets = [asked for asked in s3.asked if asked.method == "GET"]
    fetched = sum(asked.num_bytes for asked in gets)
    assert fetched < 1.3 * sum(path.stat().st_size for path in folder.iterdir())
    assert max(Counter((asked.path, asked.range) for asked in gets).values()) == 1
