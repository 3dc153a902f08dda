"""`hsdp-inspect diff` as a user or a CI job runs it: text, JSON, exit codes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cli.test_show import CONTROL
from tests.conftest import ROOT, SAMPLES, run_cli
from tests.diff.making import sample, shards, write

FIELDS = {"fqn", "verdict", "num_elements", "num_different", "first_index", "max_abs", "max_rel"}


def document(*args: Any, code: int) -> dict[str, Any]:
    ran = run_cli("diff", *args, "--json")
    assert (ran.code, ran.err) == (code, ""), ran
    found: dict[str, Any] = ran.json()
    assert found["schema"] == 1
    for key in ("only_in_a", "only_in_b", "renamed", "tensors"):
        assert type(found[key]) is list
    for tensor in found["tensors"]:
        assert tensor.keys() >= FIELDS | {"detail"}
    return found


def test_the_same_weights_under_two_shardings() -> None:
    found = document(SAMPLES / "hsdp_2x4", SAMPLES / "fsdp_8", "--values", code=0)
    assert (found["verdict"], found["values_compared"]) == ("same", True)
    assert [tensor["verdict"] for tensor in found["tensors"]] == ["EXACT"] * 6
    assert {tensor["max_abs"] for tensor in found["tensors"]} == {0}
    assert found["placements_changed"][0]["b"] == ["Shard(0)"]
    ran = run_cli("diff", SAMPLES / "hsdp_2x4", SAMPLES / "fsdp_8", "--values")
    assert ran.code == 0
    assert "same: 6 tensors, every bit" in ran.out


def test_without_values_that_is_said() -> None:
    ran = run_cli("diff", SAMPLES / "hsdp_2x4", SAMPLES / "fsdp_8")
    assert ran.code == 0
    assert "same structure" in ran.out
    assert "values were not compared" in ran.out
    found = document(SAMPLES / "hsdp_2x4", SAMPLES / "fsdp_8", code=0)
    assert found["values_compared"] is False
    assert "EXACT" not in {tensor["verdict"] for tensor in found["tensors"]}


@pytest.mark.slow
def test_a_flipped_bit() -> None:
    args = SAMPLES / "hsdp_2x2", SAMPLES / "broken" / "bit_flip"
    # The metadata does not know of it.
    document(*args, code=0)
    found = document(*args, "--values", code=1)
    (bad,) = [tensor for tensor in found["tensors"] if tensor["verdict"] != "EXACT"]
    assert (bad["fqn"], bad["verdict"], bad["num_different"]) == ("model.net1.weight", "DIFFER", 1)
    assert bad["first_index"] == bad["max_abs_index"] == [0, 1]
    text = run_cli("diff", *args, "--values").out
    assert "different: 1 DIFFER, 5 EXACT" in text
    assert "[0, 1]" in text


def test_non_finite_values_and_infinite_differences_are_json(tmp_path: Path) -> None:
    x = torch.tensor([1.0, 2.0, 1.7e308], dtype=torch.float64)
    y = torch.tensor([float("nan"), 2.0, -1.7e308], dtype=torch.float64)
    a, b = write(tmp_path / "a", {"t": x}), write(tmp_path / "b", {"t": y})
    (tensor,) = document(a, b, "--values", code=1)["tensors"]
    assert (tensor["verdict"], tensor["max_abs"]) == ("NON_FINITE", "inf")
    assert (tensor["first_non_finite"], tensor["num_non_finite"]) == ([0], 1)


@pytest.mark.slow
def test_close_is_not_the_same_unless_that_is_allowed(tmp_path: Path) -> None:
    x = torch.ones(5)
    a, b = write(tmp_path / "a", {"t": x}), write(tmp_path / "b", {"t": x + 2**-23})
    (tensor,) = document(a, b, "--values", code=1)["tensors"]
    assert (tensor["verdict"], tensor["max_ulps"]) == ("CLOSE", 1)
    document(a, b, "--values", "--allow-close", code=0)
    (tensor,) = document(a, b, "--values", "--allow-close", "--rtol", "0", code=1)["tensors"]
    assert tensor["verdict"] == "DIFFER"
    (tensor,) = document(a, b, "--values", "--rtol", "0", "--atol", "1e-6", code=1)["tensors"]
    assert tensor["verdict"] == "CLOSE"


def test_only_closeness_is_allowed(tmp_path: Path) -> None:
    x = torch.ones(5)
    a = write(tmp_path / "a", {"t": x, "gone": x})
    b = write(tmp_path / "b", {"t": x + 2**-23})
    document(a, b, "--values", "--allow-close", code=1)


def test_what_cannot_be_compared_is_exit_code_2() -> None:
    args = SAMPLES / "hsdp_2x2", SAMPLES / "broken" / "file_missing"
    found = document(*args, "--values", code=2)
    assert found["verdict"] == "unknown"
    assert any(
        tensor["verdict"] == "NOT_COMPARED" and "cannot read" in tensor["detail"]
        for tensor in found["tensors"]
    )


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("/no/such/place", SAMPLES / "hsdp_2x2"), "there is no such file or folder"),
        ((SAMPLES / "hsdp_2x2", SAMPLES / "broken"), "checkpoints: give the path of one"),
        ((SAMPLES / "hsdp_2x2", SAMPLES / "broken" / "metadata_cut"), ".metadata"),
        ((SAMPLES / "hsdp_2x2", SAMPLES / "fsdp_4", "--filter", "nosuchname"), "matches"),
        ((SAMPLES / "hsdp_2x2", SAMPLES / "fsdp_4", "--rtol", "-1"), "--rtol"),
        ((SAMPLES / "hsdp_2x2", SAMPLES / "fsdp_4", "--atol", "nan"), "--atol"),
        ((SAMPLES / "hsdp_2x2",), "Missing argument"),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_what_could_not_be_done(args: tuple[Any, ...], message: str, as_json: bool) -> None:
    ran = run_cli("diff", *args, *(["--json"] if as_json else []))
    assert ran.code == 2
    assert message in ran.err
    assert not ran.out
    assert "Traceback" not in ran.err
    assert len(ran.err.splitlines()) <= 2


def test_the_filter(tmp_path: Path) -> None:
    found = document(
        SAMPLES / "hsdp_2x2", SAMPLES / "broken" / "bit_flip", "--values", "--filter", "bias",
        code=0,
    )  # fmt: skip
    assert len(found["tensors"]) == 3


def test_text_names_every_kind_of_difference(tmp_path: Path) -> None:
    w = sample(torch.float32, (6, 4))
    common = {"shape": w, "dtype": w, "nan": w, "same": w, "none": torch.zeros(0)}
    a = write(tmp_path / "a", {**common, "model.w": w + 1, "gone": torch.ones(2)},
              entries={"lr": 1e-3})  # fmt: skip
    nan = w.clone()
    nan[2, 3] = float("nan")
    b = write(
        tmp_path / "b",
        {**common, "shape": w.t(), "dtype": w.double(), "nan": nan, "net.w": w + 1,
         "come": torch.ones(3)},
        {"nan": shards((6, 4), 1, 2)},
        {"lr": 2e-3},
    )  # fmt: skip
    ran = run_cli("diff", a, b, "--values")
    assert ran.code == 1
    lines = ran.out.splitlines()
    assert lines[2] == (
        "different: 1 tensor NON_FINITE, 1 SHAPE, 1 DTYPE, 1 EXACT, 1 without elements, "
        "1 only in A, 1 only in B, 1 renamed, 1 bytes entry DIFFER"
    )
    for line in ("only in A (1)", "  gone", "only in B (1)", "  come", "  model.w -> net.w"):
        assert line in lines
    assert any("NON_FINITE" in line and "[2, 3]" in line for line in lines)
    assert any(line.startswith("lr") and "DIFFER" in line for line in lines)
    assert "[6, 4] in A, [4, 6] in B" in ran.out


@pytest.mark.slow
def test_hostile_names_are_printable() -> None:
    folder = SAMPLES / "names_hostile_1"
    for args in ((folder, SAMPLES / "hsdp_2x2"), (folder, folder)):
        for extra in ((), ("--values",)):
            ran = run_cli("diff", *args, *extra)
            assert not CONTROL.search(ran.out.replace("\n", ""))
            assert "Traceback" not in ran.err
    found = document(folder, folder, "--values", code=0)
    assert found["verdict"] == "same"


def test_a_remote_checkpoint_can_be_a_side() -> None:
    """Over http-like storage the same code reads ranges; here file:// stands in."""
    url = f"file://{SAMPLES / 'hsdp_2x4'}"
    assert document(url, SAMPLES / "fsdp_8", "--values", code=0)["verdict"] == "same"


def test_nothing_is_written_to_either_side(tmp_path: Path) -> None:
    for name in ("hsdp_2x4", "fsdp_8"):
        shutil.copytree(SAMPLES / name, tmp_path / name)
    before = {p: p.stat().st_mtime_ns for p in sorted(tmp_path.rglob("*"))}
    document(tmp_path / "hsdp_2x4", tmp_path / "fsdp_8", "--values", code=0)
    assert {p: p.stat().st_mtime_ns for p in sorted(tmp_path.rglob("*"))} == before


@pytest.mark.slow
def test_ctrl_c_prints_what_there_is_and_is_exit_code_2(tmp_path: Path) -> None:
    x = torch.zeros(4000, 2000)
    tensors = {f"t{i}": x for i in range(12)}
    a = write(tmp_path / "a", tensors, {name: shards(x.shape, 0, 4) for name in tensors})
    b = write(tmp_path / "b", tensors, {name: shards(x.shape, 1, 4) for name in tensors})
    started = "from inspector.__main__ import main\nimport inspector.checkpoint.workers as w\n"
    # Slowed down, so that the signal surely comes before the end.
    slow = (
        "import time\nfrom inspector.values.bits import TensorBits\nread = TensorBits.read\n"
        "def slowly(*args):\n    time.sleep(0.02)\n    return read(*args)\n"
        "TensorBits.read = slowly\nprint('reading', flush=True)\n"
    )
    command = f"main(['diff', {str(a)!r}, {str(b)!r}, '--values', '--json'])"
    process = subprocess.Popen(
        [sys.executable, "-c", started + slow + command],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "reading\n"
    import time

    time.sleep(3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 2
    found = json.loads(out)
    assert (found["cancelled"], found["verdict"]) == (True, "unknown")
    assert "stopped before everything was compared" in err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("chunk_gap", "chunk-gap"),
        ("chunk_none", "chunk-gap"),
        ("entry_negative", "entry-malformed"),
        ("chunk_unstored", "chunk-unstored"),
        ("file_missing", "file-missing"),
        ("path_parent", "path-escapes"),
    ],
)
def test_a_holed_checkpoint_is_not_of_the_same_structure(name: str, code: str) -> None:
    whole, holed = SAMPLES / "hsdp_2x2", SAMPLES / "broken" / name
    for args, side in (((whole, holed), "B"), ((holed, whole), "A")):
        found = document(*args, code=2)
        assert found["verdict"] == "unknown"
        assert {damage["side"] for damage in found["damage"]} == {side}
        assert code in {damage["code"] for damage in found["damage"]}
        text = run_cli("diff", *args)
        assert text.code == 2
        assert f"{side} is damaged: {code}: " in text.out
        assert f"(hsdp-inspect check {holed if side == 'B' else args[0]} says all)" in text.out
        assert "same structure" not in text.out
    assert document(whole, whole, code=0)["damage"] == []


def test_damage_elsewhere_is_no_matter_of_the_filter() -> None:
    args = SAMPLES / "hsdp_2x2", SAMPLES / "broken" / "chunk_gap", "--filter"
    assert document(*args, "net1.weight", code=2)["damage"][0]["fqn"] == "model.net1.weight"
    assert document(*args, "bias", code=0)["damage"] == []


def test_the_bound_of_close_is_told(tmp_path: Path) -> None:
    x = torch.ones(5)
    a, b = write(tmp_path / "a", {"t": x}), write(tmp_path / "b", {"t": x + 2**-23})
    found = document(a, b, "--values", code=1)["tolerance"]
    assert found == {"atol": 0, "rtol": {"float32": 1.3e-6}, "one_ulp_is_close": True}
    bound = "CLOSE for float32: |a-b| <= 0 + 1.3e-06 * max(|a|, |b|), or 1 ulp apart"
    assert bound in run_cli("diff", a, b, "--values").out.splitlines()
    own = run_cli("diff", a, b, "--values", "--rtol", "0.5", "--atol", "0.25").out
    assert "CLOSE for float32: |a-b| <= 0.25 + 0.5 * max(|a|, |b|)" in own.splitlines()
    assert document(a, b, code=0)["tolerance"] is None
    help_text = " ".join(run_cli("diff", "--help").out.split())
    assert "torch.testing.assert_close" in help_text
    assert "The screen's is the same" in help_text


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_finite_numbers_are_a_finite_ratio_apart(tmp_path: Path, dtype: torch.dtype) -> None:
    x = torch.tensor([1e308, 1.0], dtype=dtype)
    a, b = write(tmp_path / "a", {"t": x}), write(tmp_path / "b", {"t": -x})
    for extra in ((), ("--rtol", "1.9")):
        (tensor,) = document(a, b, "--values", *extra, code=1)["tensors"]
        assert (tensor["verdict"], tensor["max_abs"], tensor["max_rel"]) == ("DIFFER", "inf", 2)
    (tensor,) = document(a, b, "--values", "--rtol", "2", code=1)["tensors"]
    assert tensor["verdict"] == "CLOSE"


def test_a_complex_number_whose_size_overflows(tmp_path: Path) -> None:
    x = torch.tensor([complex(1.7e308, 1.7e308)], dtype=torch.complex128)
    a, b = write(tmp_path / "a", {"t": x}), write(tmp_path / "b", {"t": x / 2})
    (tensor,) = document(a, b, "--values", code=1)["tensors"]
    assert (tensor["verdict"], tensor["max_rel"]) == ("DIFFER", 0.5)
