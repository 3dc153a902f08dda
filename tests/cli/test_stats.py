"""`hsdp-inspect stats`: text, JSON of the contract, exit codes, Ctrl+C."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from rich.cells import cell_len

from sample_ckpts.maker.editing import edit
from tests.checks.test_payloads import save
from tests.cli.test_check import large, stopped_while_reading
from tests.cli.test_show import on_terminal
from tests.conftest import SAMPLES, Ran, run_cli, run_process, some_fast
from tests.values.torch_stats import expected, load

BROKEN = SAMPLES / "broken"
FIELDS = {
    "fqn", "dtype", "shape", "num_elements", "min", "max", "mean", "std", "l2", "num_zero",
    "num_nan", "num_inf", "first_non_finite",
}  # fmt: skip


def stats(*args: str | Path) -> Ran:
    return run_cli("stats", *args)


@pytest.mark.parametrize("name", ["dtypes_4", "hsdp_2x4", "fsdp2_tp_2x2", "names_hostile_1"])
def test_the_json_is_the_contracts_and_its_figures_are_torchs(name: str) -> None:
    ran = stats(SAMPLES / name, "--json")
    assert (ran.code, ran.err) == (0, "")
    document = ran.json()
    assert document["schema"] == 1
    assert document["not_read"] == []
    tensors = load(SAMPLES / name)
    assert {t["fqn"] for t in document["tensors"]} == set(tensors)
    for found in document["tensors"]:
        assert set(found) >= FIELDS
        wanted = expected(tensors[found["fqn"]])
        assert found["shape"] == list(tensors[found["fqn"]].shape)
        for key, value in (("min", wanted["low"]), ("max", wanted["high"]), ("l2", wanted["l2"])):
            assert found[key] == ("nan" if value is None else pytest.approx(value, rel=1e-12))
        for key in ("mean", "std"):
            if math.isnan(wanted[key]):
                assert found[key] == "nan"
            else:
                assert found[key] == pytest.approx(wanted[key], rel=1e-12, abs=1e-12)
        for key in ("num_elements", "num_zero", "num_nan", "num_inf"):
            assert found[key] == wanted[key]


def test_nan_is_told_with_its_index_and_is_no_error() -> None:
    """As `check --values`, whose finding is a warning."""
    ran = stats(BROKEN / "values_nan")
    assert ran.code == 0 == run_cli("check", BROKEN / "values_nan", "--values").code
    assert "1 with NaN" in ran.out.splitlines()[0]
    # What is oddest comes first: the head of the table, and then this.
    assert ran.out.splitlines()[3].endswith("1 NaN, the first at [1, 2]")
    found = stats(BROKEN / "values_nan", "--json").json()["tensors"]
    bad = next(t for t in found if t["num_nan"])
    assert (bad["fqn"], bad["first_non_finite"]) == ("model.net1.weight", [1, 2])
    assert bad["kind"] == "nan"
    infinite = stats(BROKEN / "values_inf", "--json").json()["tensors"]
    assert [t["num_inf"] for t in infinite if t["num_inf"]] == [1]


def test_one_tensor_is_drawn() -> None:
    ran = stats(SAMPLES / "hsdp_2x4", "--filter", "net1 weight")
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert lines[2] == "model.net1.weight"
    assert "  tensor        float32 [8, 5], 40 elements" in lines
    assert sum("█" in line for line in lines) > 5
    assert len([line for line in lines if line.startswith("   ")]) >= 20
    log = stats(SAMPLES / "hsdp_2x4", "--filter", "net1 weight", "--histogram", "log").out
    assert "|value|" in log
    plain = run_process(
        "stats", SAMPLES / "hsdp_2x4", "--filter", "net1 weight", env={"PYTHONIOENCODING": "ascii"}
    )
    assert plain.out.isascii()
    assert "###" in plain.out


def test_histograms_in_json_count_every_element() -> None:
    for scale in ("linear", "log"):
        document = stats(SAMPLES / "dtypes_4", "--json", "--histogram", scale).json()
        for tensor in document["tensors"]:
            if not tensor["num_elements"]:
                continue
            drawn = tensor["histogram"]
            assert drawn["scale"] == scale
            total = sum(drawn["counts"]) + drawn["num_zero"]
            assert total == pytest.approx(tensor["num_elements"])
            assert len(drawn["edges"]) == len(drawn["counts"]) + 1


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        ((SAMPLES / "hsdp_2x4", "--filter", "nothing"), 2, "no tensor's name matches"),
        ((BROKEN / "empty",), 2, "there is no tensor"),
        ((BROKEN / "metadata_missing",), 2, "no .metadata"),
        ((SAMPLES / "run",), 2, "holds 3 checkpoints"),
        (("/nowhere",), 2, "no such file"),
        ((BROKEN / "metadata_of_more_ranks",), 2, "nothing could be read"),
    ],
)
def test_what_could_not_be_done(args: tuple[str, ...], code: int, says: str) -> None:
    ran = stats(*args)
    assert ran.code == code
    assert says in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    ("name", "fqn", "num_elements"),
    [
        ("chunk_gap", "model.net1.weight", 20),
        ("chunk_none", "model.net3.bias", 12),
        ("payload_zeroed", "model.net1.weight", 20),
        ("payload_dtype", "model.net1.weight", 40),
    ],
)
def test_what_was_not_read_is_said(name: str, fqn: str, num_elements: int) -> None:
    ran = stats(BROKEN / name)
    assert ran.code == 1
    assert f"NOT READ\n  {fqn}: {num_elements} elements: " in ran.out
    document = stats(BROKEN / name, "--json").json()
    (left,) = document["not_read"]
    assert (left["fqn"], left["num_elements"]) == (fqn, num_elements)
    found = [t for t in document["tensors"] if t["fqn"] == fqn]
    assert (
        sum(t["num_read"] for t in found) == found[0]["num_elements"] - num_elements
        if found
        else True
    )


def test_what_is_no_tensor_is_said(tmp_path: Path) -> None:
    folder = save(tmp_path / "ck", {"a": torch.ones(3), "b": torch.ones(3)})
    edit(folder, lambda m: m.state_dict_metadata.update({"c.x": 12}))
    ran = stats(folder)
    assert ran.code == 1
    assert "c.x" in ran.out.split("NOT READ")[1]
    assert stats(folder, "--filter", "a").code == 0


@pytest.mark.skipif(not hasattr(torch, "float4_e2m1fn_x2"), reason="torch 2.8 and later")
def test_a_dtype_without_numbers_is_no_fault(tmp_path: Path) -> None:
    packed = torch.arange(8, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    ran = stats(save(tmp_path / "c", {"f4": packed, "w": torch.ones(2)}), "--json")
    (left,) = ran.json()["not_read"]
    assert (ran.code, left["fqn"]) == (2, "f4")
    assert "numpy has no such type" in left["why"]


@pytest.mark.slow
def test_every_sample_is_read_whole() -> None:
    for path in sorted(SAMPLES.glob("*/.metadata")):
        ran = stats(path.parent, "--json")
        assert (ran.code, ran.err) == (0, ""), path


@pytest.mark.slow
@pytest.mark.parametrize("columns", [60, 80, 160])
def test_on_a_terminal_it_fits(columns: int) -> None:
    # readline, which pytest imports, leaves COLUMNS=80 in the environment of what is run.
    env = {"COLUMNS": str(columns)}
    for args in (["names_hostile_1"], ["fsdp2_adamw_4"], ["dtypes_4"]):
        drawn = on_terminal("stats", str(SAMPLES / args[0]), columns=columns, env=env)
        assert "\x1b]" not in drawn
        lines = drawn.replace("\r\n", "\n").splitlines()
        table = lines[lines.index("") + 1 :]
        assert max(map(cell_len, table)) <= columns
    one = on_terminal(
        "stats", str(SAMPLES / "hsdp_2x4"), "--filter", "net1 weight", columns=columns, env=env
    )
    bars = [line for line in one.splitlines() if "█" in line]
    assert bars
    assert max(map(cell_len, bars)) <= columns


def test_a_name_is_never_obeyed() -> None:
    out = stats(SAMPLES / "names_hostile_1").out
    assert "\x1b" not in out
    assert "\\x1b" in out


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
@pytest.mark.parametrize("form", some_fast(["text", "json"], ["text"]))
def test_ctrl_c_says_what_was_read(tmp_path: Path, form: str) -> None:
    folder = large(tmp_path / "ckpt", 60_000)
    out = stopped_while_reading("stats", folder, *(["--json"] if form == "json" else []))
    if form == "text":
        assert "stopped before every byte was read; so far 1 tensor" in out.splitlines()[0]
        assert "it was stopped" in out
        return
    document = json.loads(out)
    assert document["complete"] is False
    (tensor,) = document["tensors"]
    (left,) = document["not_read"]
    assert 0 < tensor["num_read"] < tensor["num_elements"]
    assert left["num_elements"] == tensor["num_elements"] - tensor["num_read"]


def test_a_url_costs_only_what_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """One tensor's payloads are fetched, and no more than as much again."""
    import fsspec

    from inspector.checkpoint import open_checkpoint
    from inspector.checkpoint.find.locate import folder_of
    from inspector.checkpoint.storage.base import Storage
    from inspector.values.stats import collect_stats

    memory = fsspec.filesystem("memory")
    folder = SAMPLES / "fsdp2_adamw_4"
    memory.put(str(folder), "/stats-test", recursive=True)
    try:
        checkpoint = open_checkpoint("memory://stats-test")
        storage: Storage = folder_of("memory://stats-test")
        fetched = 0
        read = type(storage).read

        def counting(self: Storage, path: str, offset: int = 0, length: int | None = None) -> bytes:
            nonlocal fetched
            data = read(self, path, offset, length)
            fetched += len(data)
            return data

        monkeypatch.setattr(type(storage), "read", counting)
        index = checkpoint.columns.fqns.index("model.layers.3.mlp.weight")
        (one,) = collect_stats(checkpoint, storage, [index]).tensors
        payloads = int(checkpoint.tensors[index].byte_length.sum())
        assert fetched <= 2 * payloads
        assert fetched < sum(f.num_bytes or 0 for f in checkpoint.files) / 4
    finally:
        memory.rm("/stats-test", recursive=True)
    same = stats(folder, "--filter", "model.layers.3.mlp.weight", "--json").json()["tensors"][0]
    assert (one.l2, one.mean) == (same["l2"], same["mean"])


def test_a_copy_without_a_file_still_gives_the_rest(tmp_path: Path) -> None:
    folder = tmp_path / "ck"
    shutil.copytree(SAMPLES / "fsdp2_adamw_4", folder)
    (folder / "__2_0.distcp").unlink()
    ran = stats(folder)
    assert ran.code == 1
    assert "the file is not there" in ran.out


@pytest.mark.parametrize("name", ["st_file_missing", "st_index_escapes"])
def test_a_file_that_the_index_names_and_is_not_there_is_told(name: str) -> None:
    ran = stats(BROKEN / name)
    assert ran.code == 1
    assert "not read in full" in ran.out.splitlines()[0]
    document = stats(BROKEN / name, "--json").json()
    assert document["complete"] is False
    whys = {item["fqn"]: item["why"] for item in document["not_read"]}
    assert whys
    for file, why in whys.items():
        assert "is not there" in why or "outside" in why
        assert f"\n  {file}: {why}" in ran.out
    one = document["tensors"][0]["fqn"]
    assert stats(BROKEN / name, "--filter", one).code == 1


@pytest.mark.parametrize("args", [("stats",), ("show", "--filter", "x")])
def test_of_a_run_the_newest_complete_checkpoint_is_hinted(
    args: tuple[str, ...], tmp_path: Path
) -> None:
    command, *rest = args
    ran = run_cli(command, SAMPLES / "run", *rest)
    assert ran.code == 2
    assert f"give one of them: {SAMPLES / 'run' / 'step-200'}" in ran.err
    shutil.copytree(SAMPLES / "run" / "step-100", tmp_path / "a" / "step-100")
    ran = run_cli(command, tmp_path, *rest)
    assert "1 checkpoint" in ran.err
    assert "1 checkpoints" not in ran.err


def test_a_file_of_a_checkpoint_stands_for_its_folder() -> None:
    folder = SAMPLES / "hsdp_2x4"
    assert stats(folder / "__0_0.distcp").out == stats(folder).out
    assert stats(folder).out.startswith(f"{folder}: 6 tensors")


def test_the_bars_add_up_and_nothing_has_none() -> None:
    for scale in ("linear", "log"):
        ran = stats(SAMPLES / "hsdp_2x4", "--filter", "net1 weight", "--histogram", scale)
        rows = ran.out.split("\n\n")[-1].splitlines()[:-2]
        assert sum(int(row.split()[-1]) for row in rows) == 40
        for row in rows:
            assert (len(row.split()) == 3) == (int(row.split()[-1]) > 0)


def test_log_edges_of_tiny_values_are_told_apart() -> None:
    out = stats(SAMPLES / "dtypes_4", "--filter", "e8m0", "--histogram", "log").out
    rows = out.split("\n\n")[-1].splitlines()[:-2]
    labels = [row.split()[0] for row in rows]
    assert len(set(labels)) == len(labels)
    assert labels[0] == "5.88e-39"


def test_histogram_needs_no_argument() -> None:
    args = (SAMPLES / "hsdp_2x4", "--filter", "net1")
    assert stats(*args, "--histogram").out == stats(*args, "--histogram", "linear").out
    assert stats("--histogram", "--json", SAMPLES / "hsdp_2x4").code == 0


@pytest.mark.slow
def test_histogram_does_not_take_the_path_for_its_scale(tmp_path: Path) -> None:
    path, net1 = SAMPLES / "hsdp_2x4", ("--filter", "net1")
    linear, log = (stats(path, *net1, f"--histogram={scale}") for scale in ("linear", "log"))
    assert (linear.code, log.code) == (0, 0)
    assert linear.out != log.out
    assert stats("--histogram", path, *net1) == stats(*net1, "--histogram", "--", path) == linear
    assert stats(*net1, "--histogram", "log", path) == stats(path, *net1, "--histogram", "log")
    assert stats("--histogram", "log", path, *net1) == log
    # What is no option's stays as it is.
    assert "--histogram: there is no such" in stats("--", "--histogram").err
    wrong = stats(path, "--histogram=cubic")
    assert wrong.code == 2
    assert "cubic" in wrong.err


@pytest.mark.slow
def test_an_absurd_value_is_odd_and_good_samples_have_none() -> None:
    first = stats(BROKEN / "bit_flip").out.splitlines()[3]
    assert first.startswith("model.net1.weight")
    assert "largest |value| 9.82e+37 is 2.3e+38x the tensors' median" in first
    one = stats(BROKEN / "bit_flip", "--json").json()["tensors"]
    assert [t["fqn"] for t in one if t["kind"] == "odd"] == ["model.net1.weight"]
    for path in [*SAMPLES.glob("*/.metadata"), *SAMPLES.glob("run/*/.metadata")]:
        for tensor in stats(path.parent, "--json").json()["tensors"]:
            assert tensor["kind"] in (None, "zero"), (path, tensor["fqn"])
            assert not (tensor["reason"] or "").startswith("largest")
