"""`--unpickle`: bytes entries are loaded as torch does; what is not let in or not there is told."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp

from inspector.verify.ranks.torch_dcp import unpickle
from inspector.verify.result import exit_code
from sample_ckpts.maker.editing import saved
from tests.checkpoint.hostile import MakesFolder
from tests.conftest import run_process

_MODULE = """\
class Config:
    def __init__(self, rate):
        self.rate = rate

class Wrong(Config):
    def __setstate__(self, state):
        raise ValueError("not any more")
"""


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A tensor and objects, some of them of a module that only this test can import."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "trainer_of_a_test.py").write_text(_MODULE)
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    monkeypatch.delitem(sys.modules, "trainer_of_a_test", raising=False)
    import trainer_of_a_test as module  # type: ignore[import-not-found]

    return {
        "w": torch.arange(12.0).view(4, 3),
        "plain": {1, 2, 3},
        "config": module.Config(0.5),
        "wrong": module.Wrong(1),
        "marker": MakesFolder(tmp_path / "marker"),
    }


def test_what_is_loaded_and_what_is_not(
    state: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = {name: saved(value) for name, value in state.items() if name != "w"}
    assert unpickle(data["plain"]) == ("EXACT", "")
    assert unpickle(data["config"]) == ("EXACT", "")
    assert unpickle(data["wrong"]) == ("FAILED", "torch.load raises ValueError: not any more")
    verdict, why = unpickle(data["marker"])
    assert verdict == "NOT_VERIFIED"
    assert "mkdir, code to be run" in why
    assert not (tmp_path / "marker").exists()
    # Where the package is not installed.
    monkeypatch.delitem(sys.modules, "trainer_of_a_test")
    monkeypatch.setattr(sys, "path", [p for p in sys.path if not p.endswith("modules")])
    verdict, why = unpickle(data["config"])
    assert verdict == "NOT_VERIFIED"
    assert "it needs trainer_of_a_test.Config, which is not there" in why
    assert "--import trainer_of_a_test" in why


@pytest.mark.slow
@pytest.mark.torchrun
def test_a_job_that_unpickles(state: dict[str, Any], tmp_path: Path) -> None:
    folder, modules = tmp_path / "checkpoint", tmp_path / "modules"
    dcp.save(state, checkpoint_id=folder, no_dist=True)

    def verify(*options: str, path: str = "") -> dict[str, Any]:
        ran = run_process(
            *("verify", folder, "--mesh", "fsdp:1", "--device", "cpu", "--memory", "64MiB"),
            *("--json", *options),
            env={"OMP_NUM_THREADS": "1", "PYTHONPATH": path},
            timeout_s=300,
        )
        result: dict[str, Any] = json.loads(ran.out.splitlines()[-1])
        assert ran.code == exit_code(result), ran.err
        return result

    def why(result: dict[str, Any]) -> dict[str, str]:
        return {item["fqn"]: item["why"] for item in result["tensors"]["not_verified"]}

    # As bytes they are all exact; but torch would run what one of them names.
    result = verify("--then", "none")
    assert result["verdict"] == "partial"
    assert set(why(result)) == {"marker"}
    assert "code to be run" in why(result)["marker"]
    result = verify("--unpickle")
    assert result["verdict"] == "partial"
    assert set(why(result)) == {"config", "wrong", "marker"}
    assert "--import trainer_of_a_test" in why(result)["config"]
    result = verify("--unpickle", "--import", "trainer_of_a_test", path=str(modules))
    assert result["verdict"] == "differs"
    assert result["tensors"]["different"] == ["wrong"]
    assert set(why(result)) == {"marker"}
    assert not (tmp_path / "marker").exists()
