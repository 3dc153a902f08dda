"""`check --against`: sound, and complete for a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from inspector.cli.group import run_command
from inspector.errors import InspectError
from tests.conftest import SAMPLES

GOOD = SAMPLES / "hsdp_2x4"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    wanted = [
        {"fqn": "model.net1.weight", "dtype": "bfloat16", "shape": [8, 5]},
        {"fqn": "model.net1.bias", "dtype": "float32", "shape": [9]},
        {"fqn": "model.head", "dtype": "float32", "shape": [1]},
    ]
    path = tmp_path / "model.json"
    path.write_text(json.dumps(wanted))
    return path


def check(*args: object) -> int:
    return run_command(["check", *map(str, args)])


def test_sound_and_complete_is_exit_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert check(GOOD, "--against", SAMPLES / "fsdp_4") == 0
    assert "fsdp_4 (a dcp checkpoint, 6 keys): 0 differences" in capsys.readouterr().out
    assert check(GOOD, "--deep", "--against", SAMPLES / "fsdp_4", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["verdict"] == "sound"
    against = document["against"]
    assert (against["complete"], against["num_keys"], against["num_matching"]) == (True, 6, 6)
    assert against["problems"] == []


def test_sound_and_incomplete_is_exit_1(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a model lacks is no damage of the checkpoint's."""
    assert check(GOOD, "--against", model, "--json") == 1
    document = json.loads(capsys.readouterr().out)
    assert (document["verdict"], document["findings"]) == ("sound", [])
    against: dict[str, Any] = document["against"]
    assert (against["complete"], against["num_keys"], against["num_matching"]) == (False, 3, 2)
    errors = {p["code"]: p["fqn"] for p in against["problems"] if p["severity"] == "error"}
    assert errors == {"missing-key": "model.head", "shape-mismatch": "model.net1.bias"}
    for form, said in (
        ("text", "ERROR missing-key"),
        ("github", "::error file="),
        ("html", "missing-key"),
    ):
        assert check(GOOD, "--against", model, "--format", form) == 1
        out = capsys.readouterr().out
        assert said in out
        assert "1 missing, 1 refused for their shape, 1 cast, 4 ignored" in out


def test_complete_and_damaged_is_exit_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert check(SAMPLES / "broken" / "chunk_gap", "--against", GOOD, "--json") == 1
    document = json.loads(capsys.readouterr().out)
    assert (document["verdict"], document["against"]["complete"]) == ("damaged", True)


def test_what_cannot_be_read_is_not_compared(capsys: pytest.CaptureFixture[str]) -> None:
    assert check(SAMPLES / "broken" / "metadata_cut", "--against", GOOD, "--json") == 2
    document = json.loads(capsys.readouterr().out)
    assert "against" not in document
    assert any("expects" in left["what"] for left in document["checked"]["not_checked"])


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ((SAMPLES / "run", "--against", GOOD), "for one checkpoint"),
        ((SAMPLES / "run", "--newest", "--against", GOOD), "exclude each other"),
        ((GOOD, "--against", SAMPLES / "README.md"), "README.md"),
    ],
)
def test_mistakes(args: tuple[object, ...], says: str) -> None:
    with pytest.raises(InspectError, match=says):
        check(*args)
