"""`hsdp-inspect plan` as a user runs it: text, JSON, exit codes, and what can be wrong with the
arguments."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from inspector.checkpoint.dcp import read_dcp
from inspector.checkpoint.storage.opening import open_storage
from inspector.layout.mesh import Mesh
from inspector.layout.reads.load_plan import load_plan
from inspector.layout.writer.written_by import infer
from inspector.report.plan import PlanReport, plan_text
from tests.conftest import SAMPLES, run_cli

RANK_KEYS = {
    "rank",
    "coordinate",
    "bytes_needed",
    "bytes_read",
    "num_reads",
    "num_files",
    "num_empty_tensors",
    "peak_bytes",
}
READ_KEYS = {"rank", "fqn", "file", "storage_offsets", "dest_offsets", "lengths"}


def test_json_is_the_contracts() -> None:
    ran = run_cli("plan", SAMPLES / "fsdp2_adamw_4", "--mesh", "hsdp:2x3", "--json")
    document = ran.json()
    assert ran.code == 0
    assert ran.err == ""
    assert (document["schema"], document["mesh"], document["world_size"]) == (1, "hsdp:2x3", 6)
    assert all(set(rank) >= RANK_KEYS for rank in document["ranks"])
    assert [rank["rank"] for rank in document["ranks"]] == list(range(6))
    assert document["ranks"][4]["coordinate"] == [1, 1]
    for key in ("bytes_needed", "bytes_read"):
        assert document[key] == sum(rank[key] for rank in document["ranks"])
    assert document["amplification"] == document["bytes_read"] / document["bytes_needed"]
    assert document["problems"] == []
    assert "reads" not in document


def test_reads_are_those_of_the_plan() -> None:
    folder = SAMPLES / "fsdp2_tp_2x2"
    document = run_cli("plan", folder, "--mesh", "fsdp:3", "--json", "--reads").json()
    plan = load_plan(read_dcp(open_storage(str(folder))), Mesh.parse("fsdp:3"))
    expected = [
        (rank, read.fqn, read.file, [*read.storage_offsets], [*read.dest_offsets], [*read.lengths])
        for rank in range(3)
        for read in plan.reads(rank)
    ]
    keys = ("rank", "fqn", "file", "storage_offsets", "dest_offsets", "lengths")
    assert [tuple(read[key] for key in keys) for read in document["reads"]] == expected
    assert all(set(read) >= READ_KEYS for read in document["reads"])
    assert sum(rank["num_reads"] for rank in document["ranks"]) == len(document["reads"])


def test_text_says_it_in_a_sentence() -> None:
    ran = run_cli("plan", SAMPLES / "hsdp_uneven_2x4", "--mesh", "hsdp:2x6")
    assert ran.code == 0
    assert "12 ranks read " in ran.out
    assert "x the checkpoint; " in ran.out
    assert "tensors leave 2 ranks empty-handed" in ran.out
    assert "written by hsdp:2x4; under that mesh 8 ranks would read 2.00x" in ran.out
    rows = [line.split() for line in ran.out.splitlines() if line[:4].strip().isdigit()]
    assert [row[0] for row in rows] == [str(rank) for rank in range(12)]
    assert rows[7][1:5] == ["replica", "1,", "shard", "1"]


def lines(name: str, mesh: str, width: int | None, max_rows: int | None) -> list[str]:
    """The text as a terminal of some width gets it."""
    checkpoint = read_dcp(open_storage(str(SAMPLES / name)))
    plan = load_plan(checkpoint, Mesh.parse(mesh))
    return list(plan_text(PlanReport(plan, infer(checkpoint)), width, max_rows))


def listed(text: list[str]) -> list[int]:
    """Ranks that the table lists."""
    cells = [line[:5].strip() for line in text]
    return [int(cell) for cell in cells if cell.isdigit()]


def test_a_terminal_gets_a_short_table() -> None:
    assert listed(lines("hsdp_2x4", "hsdp:3x4", None, None)) == list(range(12))
    replicas = lines("hsdp_2x4", "hsdp:3x4", 80, 64)
    assert listed(replicas) == [0, 1, 2, 3]
    assert "... and 8 ranks more: the other replicas read the same" in replicas
    many = lines("hsdp_2x4", "hsdp:2x500", 80, 64)
    assert listed(many) == list(range(64))
    assert "... and 936 ranks more: send this to a file to see all" in many
    # Replicas read what each of them wrote.
    assert listed(lines("per_rank_metadata_2", "hsdp:2x1", 80, 64)) == [0, 1]


@pytest.mark.parametrize("width", [60, 80, 200])
def test_it_fits_a_terminal(width: int) -> None:
    assert all(len(line) <= width for line in lines("fsdp2_adamw_4", "hsdp:2x40", width, 64))


def test_the_mesh_that_wrote_it() -> None:
    ran = run_cli("plan", SAMPLES / "hsdp_2x4", "--mesh", "hsdp:2x4")
    assert "written by hsdp:2x4, this very mesh" in ran.out


def test_a_gap_is_exit_code_1() -> None:
    ran = run_cli("plan", SAMPLES / "broken" / "chunk_gap", "--mesh", "fsdp:4", "--json")
    (problem,) = ran.json()["problems"]
    assert ran.code == 1
    assert problem["code"] == "chunk-gap"
    assert problem["torch_does"].startswith("loads silently")
    text = run_cli("plan", SAMPLES / "broken" / "chunk_gap", "--mesh", "fsdp:4")
    assert text.code == 1
    assert "ERROR chunk-gap" in text.out


def test_against(tmp_path: Path) -> None:
    wanted = [
        {"fqn": "model.net1.weight", "dtype": "bfloat16", "shape": [8, 5]},
        {"fqn": "model.net1.bias", "dtype": "float32", "shape": [9]},
        {"fqn": "model.head", "dtype": "float32", "shape": [1]},
    ]
    path = tmp_path / "expected.json"
    path.write_text(json.dumps(wanted))
    command = ("plan", SAMPLES / "hsdp_2x4", "--mesh", "fsdp:2", "--against", path)
    ran = run_cli(*command, "--json")
    document = ran.json()
    assert ran.code == 1
    assert document["against"]["num_keys"] == 3
    by_code: dict[str, list[str]] = {}
    for problem in document["problems"]:
        by_code.setdefault(problem["code"], []).append(problem["fqn"])
        assert problem["torch_does"]
    assert by_code["missing-key"] == ["model.head"]
    assert by_code["shape-mismatch"] == ["model.net1.bias"]
    assert by_code["dtype-cast"] == ["model.net1.weight"]
    assert len(by_code["unused-key"]) == 4
    text = run_cli(*command)
    assert text.code == 1
    assert "1 missing, 1 refused for their shape, 1 cast, 4 ignored" in text.out


def test_warnings_alone_are_exit_code_0() -> None:
    folder = SAMPLES / "hsdp_2x4"
    assert run_cli("plan", folder, "--mesh", "fsdp:2", "--against", SAMPLES / "fsdp_4").code == 0


def test_the_commands_are_verifys_own(tmp_path: Path) -> None:
    """The first line that is shown, run here, writes the job that the others run."""
    folder = SAMPLES / "hsdp_2x4"
    document = run_cli("plan", folder, "--mesh", "hsdp:8x64", "--json").json()
    lines = [command["line"] for command in document["commands"]]
    assert any("--nnodes=64 " in line and "--nproc-per-node=8" in line for line in lines)
    assert any(line.count("srun --nodes=64 --ntasks-per-node=1") == 1 for line in lines)
    first = shlex.split(lines[0].replace("SHARED_DIR", str(tmp_path)))
    assert first[0] == "hsdp-inspect"
    ran = run_cli(*first[1:])
    assert ran.code == 0, ran.err
    spec = json.loads((tmp_path / "spec.json").read_text())
    assert (spec["path"], spec["mesh"]) == (str(folder), "hsdp:8x64")
    # What it prints is what was shown, but for where the job lies and which Python it is.
    shown = next(line for line in lines if "&& python " in line and "--nnodes" in line)
    words = shlex.split(shown.replace("SHARED_DIR", str(tmp_path)))
    assert words[:4] == ["cd", str(tmp_path / "import"), "&&", "python"]
    printed = [shlex.split(line) for line in ran.out.splitlines() if line.startswith("cd ")]
    assert any(line[:3] == words[:3] and line[4:] == words[4:] for line in printed)
    assert (tmp_path / "import" / "inspector" / "__main__.py").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--mesh", "hsdp:8"), "hsdp has 2 axes"),
        (("--mesh", "fsdp:0"), "size 0"),
        (("--mesh", "fsdp:99999999"), "more than 65536 ranks"),
        (("--mesh", "8"), "is not a mesh"),
        (("--mesh", ""), "is not a mesh"),
        (("--mesh", "\x1b[2J"), "is not a mesh"),
        (("--mesh", "pp:2,dp_shard:2"), "pipeline stage"),
        (("--mesh", "dp_shard:2,tp:2", "--placements", "/nowhere.toml"), "No such file"),
        ((), "Missing option '--mesh'"),
        (("--mesh", "fsdp:2", "--reads"), "--json"),
        (("--mesh", "fsdp:2", "--against", "/nowhere.json"), "no such file"),
        (("--mesh", "fsdp:2", "--against", ""), "--against"),
        (("--mesh", "fsdp:2", "--against", str(SAMPLES / "README.md")), "is a file"),
    ],
)
def test_arguments_that_cannot_be_meant(arguments: tuple[str, ...], says: str) -> None:
    ran = run_cli("plan", SAMPLES / "fsdp_4", *arguments)
    assert ran.code == 2
    assert ran.out == ""
    assert says in ran.err
    assert "Traceback" not in ran.err
    assert "\x1b" not in ran.err
    assert len(ran.err.splitlines()) <= 2


@pytest.mark.parametrize("name", ["nowhere", "run", "broken/metadata_missing", "broken/empty"])
def test_paths_that_are_no_checkpoint(name: str) -> None:
    ran = run_cli("plan", SAMPLES / name, "--mesh", "fsdp:2")
    assert ran.code == 2
    assert ran.out == ""
    assert ran.err.startswith("hsdp-inspect: ")
    assert "Traceback" not in ran.err


def test_hostile_names_are_escaped() -> None:
    folder = SAMPLES / "names_hostile_1"
    ran = run_cli("plan", folder, "--mesh", "fsdp:64", "--against", SAMPLES / "fsdp_4")
    assert ran.code == 1
    assert all(line.isprintable() for line in ran.out.splitlines())
    names = {
        r["fqn"]
        for r in run_cli("plan", folder, "--mesh", "fsdp:1", "--json", "--reads").json()["reads"]
    }
    assert any("\x1b" in name for name in names)


def test_metadata_of_every_rank() -> None:
    folder = SAMPLES / "per_rank_metadata_2"
    assert run_cli("plan", folder, "--mesh", "fsdp:2").code == 0
    assert run_cli("plan", folder, "--mesh", "fsdp:4").code == 1


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("range_short", "range-too-short"),
        pytest.param("byte_ranges_overlap", "byte-range-overlap", marks=pytest.mark.slow),
        pytest.param("st_overlap", "byte-range-overlap", marks=pytest.mark.slow),
        ("metadata_unsafe", "metadata-unsafe"),
        pytest.param("path_parent", "path-escapes", marks=pytest.mark.slow),
        ("st_index_escapes", "path-escapes"),
        pytest.param("chunk_duplicate", "chunk-duplicate", marks=pytest.mark.slow),
    ],
)
def test_what_check_finds_without_payloads_is_a_problem(name: str, code: str) -> None:
    command = ("plan", SAMPLES / "broken" / name, "--mesh", "fsdp:2")
    ran = run_cli(*command, "--json")
    assert ran.code == 1
    assert code in {problem["code"] for problem in ran.json()["problems"]}
    text = run_cli(*command)
    assert text.code == 1
    assert f"ERROR {code}" in text.out
    warned = ran.json()["commands_warning"]
    assert (warned is not None) is (name == "metadata_unsafe")
    if warned is not None:
        assert text.out.index(f"\n{warned}\n") < text.out.index("To prove it where")


def test_what_plan_says_of_ranks_is_not_said_again() -> None:
    for name in ("chunk_gap", "chunk_none", "chunk_unstored", "file_missing", "file_cut"):
        folder = SAMPLES / "broken" / name
        (problem,) = run_cli("plan", folder, "--mesh", "fsdp:2", "--json").json()["problems"]
        assert "rank" in problem["message"]


def test_an_unrelated_object_is_no_model() -> None:
    path = SAMPLES / "expected.json"
    ran = run_cli("plan", SAMPLES / "fsdp_4", "--mesh", "fsdp:2", "--against", path)
    assert (ran.code, ran.out) == (2, "")
    assert "neither a shape nor a dtype" in ran.err


def test_a_model_of_which_nothing_is_there(tmp_path: Path) -> None:
    names = [f"other.{i}" for i in range(69)]
    path = tmp_path / "expected.json"
    path.write_text(json.dumps({name: {"shape": [1]} for name in names}))
    command = ("plan", SAMPLES / "fsdp_4", "--mesh", "fsdp:2", "--against", path)
    ran = run_cli(*command)
    assert ran.code == 1
    assert "69 keys), none of which is in the checkpoint" in ran.out
    assert ran.out.count("ERROR missing-key\n") == 5
    assert "ERROR missing-key: and 64 more:\n" in ran.out
    assert all(name in ran.out for name in names)
    assert run_cli(*command, "--json").json()["against"]["num_matching"] == 0


def test_axes_by_name_and_a_file_of_placements(tmp_path: Path) -> None:
    file = tmp_path / "placements.toml"
    file.write_text('# rows\n"model.w2.*" = "tp:0"\n')
    arguments = ("--mesh", "dp_shard:2,tp:2", "--placements", file)
    ran = run_cli("plan", SAMPLES / "hsdp_tp_2x2x2", *arguments, "--json", "--reads")
    document = ran.json()
    assert ran.code == 0, ran.err
    assert document["axes"] == [
        {"name": "dp_shard", "size": 2, "kind": "shard"},
        {"name": "tp", "size": 2, "kind": "tensor"},
    ]
    assert document["placed_by"]["file"] == 2
    assert [rank["coordinate"] for rank in document["ranks"]] == [[0, 0], [0, 1], [1, 0], [1, 1]]
    # (7, 10): 4 rows and 3, each in two: 2, 2 and 2, 1.
    rows = {r: [x for x in document["reads"] if (x["rank"], x["fqn"]) == (r, "model.w2.weight")]
            for r in range(4)}  # fmt: skip
    assert [sum(x["lengths"][0] * x["lengths"][1] for x in rows[r]) for r in range(4)] == [
        20, 20, 20, 10,
    ]  # fmt: skip
    text = run_cli("plan", SAMPLES / "hsdp_tp_2x2x2", *arguments).out
    assert "FSDP over 2 x tensor parallel over 2" in text
    assert "2 tensors as --placements says" in text
    idle = run_cli("plan", SAMPLES / "fsdp_4", "--mesh", "dp_shard:2,tp:2").out
    assert "no tensor is cut by tp" in idle
    file.write_text('"nothing.*" = "tp:0"')
    ran = run_cli("plan", SAMPLES / "hsdp_tp_2x2x2", *arguments)
    assert (ran.code, "matches no tensor" in ran.err) == (2, True)


def test_what_lies_otherwise_than_its_placements_say_is_told(tmp_path: Path) -> None:
    file = tmp_path / "placements.toml"
    file.write_text('"model.w2.weight" = "tp:0"')
    arguments = ("--mesh", "dp_shard:3,tp:2", "--placements", file, "--json")
    problems = run_cli("plan", SAMPLES / "hsdp_tp_2x2x2", *arguments).json()["problems"]
    assert [(p["code"], p["severity"], p["fqn"]) for p in problems] == [
        ("strided-uneven", "warning", "model.w2.weight")
    ]
