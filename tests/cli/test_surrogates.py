"""Names that are no Unicode: bytes of a file's name, and lone surrogates in JSON, end nothing."""

from __future__ import annotations

import json
import os
import shutil
import struct
from pathlib import Path

import pytest

from tests.conftest import SAMPLES, run_cli

SAMPLE = SAMPLES / "hsdp_2x2"
ODD = os.fsdecode(b"odd\xff")


def _made(folder: Path, kind: str) -> Path:
    if kind == "dcp":
        place = folder / ODD
        shutil.copytree(SAMPLE, place)
        (place / f"__9_{ODD}.distcp").write_bytes(b"x")
        digests = {"algorithm": "sha256", "files": {"\ud800.distcp": "00", ".metadata": "\udfff"}}
        (place / "integrity.json").write_text(json.dumps(digests))
        return place
    if kind == "run":
        for name in (f"step-1{ODD}", "step-2"):
            shutil.copytree(SAMPLE, folder / "run" / name)
        (folder / "run" / "latest").write_bytes(b"step-\xff")
        return folder / "run"
    header = b'{"w\\ud800":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    (folder / "model-00001-of-00001.safetensors").write_bytes(
        struct.pack("<Q", len(header)) + header + b"\0" * 4
    )
    names = {"w": "\udfff.safetensors", "\ud800": "model-00001-of-00001.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    return folder


@pytest.mark.parametrize("kind", ["dcp", "run", "safetensors"])
@pytest.mark.parametrize(
    "args",
    [["show"], ["check", "--deep"], ["check", "--json", "--deep"], ["check", "--format", "github"]],
)
def test_they_are_shown_escaped(kind: str, args: list[str], tmp_path: Path) -> None:
    try:
        place = _made(tmp_path, kind)
    except OSError:
        pytest.skip("this file system has no such names")
    ran = run_cli(*args, place)
    assert ran.code in (0, 1, 2)
    assert "internal error" not in ran.err and "Traceback" not in ran.err
    for line in (ran.out + ran.err).split("\n"):
        assert line.isprintable(), line
