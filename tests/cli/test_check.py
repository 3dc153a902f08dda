"""`hsdp-inspect check`: exit codes, JSON, annotations, text, Ctrl+C, run folders, attacks."""

from __future__ import annotations

import json
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inspector.checks.findings import CODES
from sample_ckpts.maker import editing as ed
from tests.checkpoint.hostile import Runs
from tests.conftest import ROOT, SAMPLES, Ran, run_cli, run_process, run_python, some_fast
from tests.tui.app_driver import opened, screen_text

BROKEN = SAMPLES / "broken"


def check(*args: str | Path, **options: Any) -> Ran:
    return run_cli("check", *args, **options)


# -- exit codes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "code"),
    [
        ((SAMPLES / "hsdp_2x4",), 0),
        ((SAMPLES / "hsdp_2x4", "--deep", "--values"), 0),
        ((SAMPLES / "hsdp_2x4" / ".metadata",), 0),
        ((BROKEN / "values_nan", "--values"), 0),  # Warnings alone are no failure.
        ((BROKEN / "bit_flip",), 0),  # Only the bytes show it.
        ((BROKEN / "bit_flip", "--deep"), 1),
        ((BROKEN / "bit_flip", "--values"), 1),
        ((BROKEN / "chunk_gap",), 1),
        ((BROKEN / "metadata_unsafe",), 1),
        ((BROKEN / "metadata_cut",), 2),
        ((BROKEN / "metadata_missing",), 2),
        ((BROKEN / "empty",), 2),
        ((BROKEN / "empty", "--deep"), 2),
        ((ROOT / "inspector",), 2),
        ((ROOT / "no such folder",), 2),
        ((ROOT / "pyproject.toml",), 2),
        ((), 2),
        ((SAMPLES / "hsdp_2x4", "--format", "xml"), 2),
    ],
    ids=lambda value: (
        " ".join(Path(v).name for v in value) if isinstance(value, tuple) else str(value)
    ),
)
def test_exit_codes(args: tuple[str | Path, ...], code: int) -> None:
    ran = check(*args)
    assert ran.code == code, ran
    assert "Traceback" not in ran.err
    if ran.out:
        assert ran.err == ""
    else:
        assert 1 <= len(ran.err.splitlines()) <= 2


def test_an_empty_checkpoint_is_not_called_sound() -> None:
    for form in ("text", "github"):
        assert "nothing to check" in check(BROKEN / "empty", "--format", form).out
        assert "sound" not in check(BROKEN / "empty", "--format", form).out
    document = check(BROKEN / "empty", "--json").json()
    assert document["verdict"] == "suspicious"
    assert document["checked"]["not_checked"][0]["what"] == "everything"


# -- JSON --------------------------------------------------------------------------------------

FINDING = {
    "code": str, "severity": str, "fqn": (str, type(None)), "file": (str, type(None)),
    "offsets": (list, type(None)), "num_elements": (int, type(None)), "message": str,
    "torch_does": str, "hint": str,
}  # fmt: skip


# The bomb takes ten seconds, and is set off below.
NAMES = sorted(p.name for p in BROKEN.iterdir() if p.is_dir() and p.name != "metadata_bomb")


@pytest.mark.parametrize("name", some_fast(NAMES, NAMES[::9]))
def test_the_document_is_as_the_contract_has_it(name: str) -> None:
    ran = check(BROKEN / name, "--deep", "--values", "--format", "json")
    document = ran.json()
    assert ran.out.count("\n") == 1
    assert document["schema"] == 1
    assert document["verdict"] in ("sound", "damaged", "suspicious", "unreadable")
    checked = document["checked"]
    for field in ("tensors", "chunks", "files", "payloads", "payload_bytes"):
        assert type(checked[field]) is int
    for left in checked["not_checked"]:
        assert left["what"]
        assert left["why"]
    for finding in document["findings"]:
        assert FINDING.keys() <= finding.keys()
        for field, kinds in FINDING.items():
            assert isinstance(finding[field], kinds)
        assert finding["code"] in CODES
        assert finding["severity"] in ("error", "warning", "note")
        assert all(type(number) is int for number in finding["offsets"] or ())
    order = ["error", "warning", "note"]
    severities = [order.index(finding["severity"]) for finding in document["findings"]]
    assert severities == sorted(severities)
    if "error" in [f["severity"] for f in document["findings"]]:
        assert document["verdict"] != "sound"


def test_what_was_not_checked_is_said() -> None:
    document = check(SAMPLES / "hsdp_2x4", "--json").json()
    assert document["verdict"] == "sound"
    assert document["checked"]["payloads"] == 0
    assert "without --deep" in document["checked"]["not_checked"][0]["why"]
    document = check(SAMPLES / "hsdp_2x4", "--json", "--deep").json()
    assert document["checked"] == {
        "tensors": 6, "chunks": 24, "files": 8, "payloads": 24,
        "payload_bytes": 24 * 1577, "not_checked": [], "against": [],
    }  # fmt: skip


def test_names_are_raw_in_json_and_printable_elsewhere() -> None:
    name = "model.net2.\u202esaib"
    (finding,) = check(BROKEN / "name_bidi", "--json").json()["findings"]
    assert finding["fqn"] == name
    for form in ("text", "github"):
        out = check(BROKEN / "name_bidi", "--format", form).out
        assert "\u202e" not in out
        assert "\\u202e" in out


# -- text --------------------------------------------------------------------------------------


def test_text_says_what_where_how_much_what_torch_does_and_what_to_do() -> None:
    lines = check(BROKEN / "chunk_gap").out.splitlines()
    assert lines[0] == f"{BROKEN / 'chunk_gap'}: damaged: 1 error, 1 note"
    assert lines[1].strip() == "checked      6 tensors, 11 chunks, 4 files"
    at = lines.index("ERROR chunk-gap")
    message, torch, hint = lines[at + 1 : at + 4]
    assert "model.net1.weight: 20 of 40 elements lie in no chunk, at [4:8, 0:5]" in message
    assert torch.strip() == "torch: loads silently, 20 elements left uninitialised"
    assert hint.strip().startswith("do: ")


def test_a_sound_checkpoint_gets_a_short_answer() -> None:
    ran = check(SAMPLES / "hsdp_2x4", "--deep")
    assert ran.out.splitlines() == [
        f"{SAMPLES / 'hsdp_2x4'}: sound: nothing is wrong",
        "  checked      6 tensors, 24 chunks, 8 files, every byte of 24 payloads (37.0 KiB read)",
    ]


# -- annotations -------------------------------------------------------------------------------


def test_annotations_are_escaped(tmp_path: Path) -> None:
    """docs.github.com: % CR LF in messages; in properties also colon and comma."""
    folder = tmp_path / "50%, run: a"
    shutil.copytree(BROKEN / "file_missing", folder)
    ed.rename_entry(folder, "model.net1.weight", "a::b%0A,\nc")
    ran = check(folder, "--format", "github")
    assert ran.code == 1
    *commands, last = ran.out.splitlines()
    errors = [line for line in commands if line.startswith("::error ")]
    assert len(errors) == 1
    properties, message = errors[0].removeprefix("::error ").split("::", 1)
    values = dict(part.split("=", 1) for part in properties.split(","))
    assert values.keys() == {"file", "title"}
    assert values["title"] == "file-missing"
    assert values["file"].endswith("50%25%2C run%3A a/__1_0.distcp")
    assert "__1_0.distcp: it is not there" in message
    warnings = [line for line in commands if line.startswith("::warning ")]
    assert "a::b%250A,\\nc" in warnings[0].split("::", 2)[2]
    assert len(commands) == len(errors) + len(warnings)
    assert last == f"{folder}: damaged: 1 error, 1 warning"


@pytest.mark.parametrize(
    "name",
    ["::error file=x::forged", "##[error]forged", "a\n::error::forged", "%0A::error::forged"],
)
def test_no_name_forges_an_annotation(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The runner takes lines that begin with `::`, and `##[` anywhere in those that do not."""
    monkeypatch.chdir(tmp_path)
    for step in (name, f"run/{name}", f"run/{name} 2"):
        shutil.copytree(BROKEN / "file_missing", tmp_path / step)
        ed.rename_entry(tmp_path / step, "model.net1.weight", name)
    for path in (name, "run"):
        argv = ["-m", "inspector", "check", path, "--format", "github"]
        ran = run_python(*argv, env={"PYTHONPATH": str(ROOT)}, cwd=tmp_path)
        assert ran.code == 1, ran.err
        for line in ran.out.splitlines():
            if line.lstrip().startswith("::"):
                assert re.match(r"::(error|warning|notice) file=[^:,]*,title=[a-z -]+::", line), (
                    line
                )
                assert "%0A" not in line
            else:
                assert "##[" not in line


#: Names that would each be a command of the runner's, were it to read them at a line's start.
_FORGED = "::error file=x::forged"
_FORGED_OLD = "##[error]forged"
_PRINT_NAMES = {
    "show": ["show", _FORGED, "--chunks"],
    "show a run": ["show", "run"],
    "check": ["check", _FORGED],
    "check a run": ["check", "run"],
    "plan": ["plan", _FORGED, "--mesh", "fsdp:2"],
    "stats": ["stats", _FORGED],
    "diff": ["diff", _FORGED, f"run/{_FORGED} 2", "--no-tui", "--values"],
    "repair": ["repair", _FORGED],
    "export": ["export", _FORGED, "x"],
    "a path that is not there": ["show", f"{_FORGED_OLD}/none"],
    "json": ["show", _FORGED, "--json", "--chunks"],
    "watch": ["watch", "run", "--once", "--settle", "0"],
}


@pytest.mark.parametrize("what", some_fast(list(_PRINT_NAMES), ["check a run"]))
def test_no_name_commands_the_runner_of_a_plain_command(what: str, tmp_path: Path) -> None:
    """A plain `check RUN` in a workflow printed a step's name at the start of a line."""
    argv = _PRINT_NAMES[what]
    for step in (_FORGED, f"run/{_FORGED}", f"run/{_FORGED} 2", f"run/{_FORGED_OLD} 3"):
        shutil.copytree(BROKEN / "file_missing", tmp_path / step)
        ed.rename_entry(tmp_path / step, "model.net1.weight", _FORGED)
        ed.rename_entry(tmp_path / step, "model.net1.bias", _FORGED_OLD)
    said = {}
    for is_runner in ("", "true"):
        env = {"PYTHONPATH": str(ROOT), "GITHUB_ACTIONS": is_runner}
        ran = run_python("-m", "inspector", *argv, env=env, cwd=tmp_path)
        said[is_runner] = ran.out + ran.err
    is_command = re.compile(r"^\s*::|##\[", re.MULTILINE)
    assert is_command.search(said[""]), "this test would see none"
    assert not is_command.search(said["true"])
    if "--json" in argv:
        assert json.loads(said["true"]) == json.loads(said[""])


def test_notes_are_notices() -> None:
    out = check(BROKEN / "bytes_trailing", "--format", "github").out
    assert out.startswith("::notice file=")
    assert check(SAMPLES / "hsdp_2x2", "--format", "github").out.count("::") == 0


# -- run folders -------------------------------------------------------------------------------


def test_a_run_folder_tells_each_steps_state_and_the_newest_sound_one() -> None:
    ran = check(SAMPLES / "run", "--deep", "--json")
    document = ran.json()
    assert ran.code == 0
    states = [(c["step"], c["state"], c["verdict"]) for c in document["checkpoints"]]
    assert states == [
        (100, "complete", "sound"),
        (200, "complete", "sound"),
        (300, "unfinished", "unreadable"),
    ]
    assert (document["newest_sound"], document["newest_sound_step"]) == ("step-200", 200)
    assert "rename .metadata.tmp" in document["checkpoints"][2]["findings"][0]["hint"]
    text = check(SAMPLES / "run").out
    assert text.rstrip().endswith("Newest sound checkpoint: step-200")
    assert "Newest sound checkpoint: step-200" in check(SAMPLES / "run", "--format", "github").out


def test_a_run_folder_without_a_sound_step_fails(tmp_path: Path) -> None:
    shutil.copytree(SAMPLES / "run" / "step-300", tmp_path / "step-300")
    shutil.copytree(BROKEN / "file_missing", tmp_path / "step-400")
    shutil.copytree(BROKEN / "empty", tmp_path / "step-500")
    ran = check(tmp_path)
    assert ran.code == 1
    assert ran.out.rstrip().endswith("No checkpoint here is sound.")
    assert check(tmp_path, "--json").json()["newest_sound"] is None
    assert "::error" in check(tmp_path, "--format", "github").out.splitlines()[-1]


def test_a_deep_look_moves_the_newest_sound_step(tmp_path: Path) -> None:
    shutil.copytree(SAMPLES / "hsdp_2x2", tmp_path / "step-1")
    shutil.copytree(BROKEN / "bit_flip", tmp_path / "step-2")
    assert check(tmp_path, "--json").json()["newest_sound_step"] == 2
    assert check(tmp_path, "--json", "--deep").json()["newest_sound_step"] == 1


@pytest.mark.slow
def test_the_samples_folder_is_not_confused_by_the_broken_ones() -> None:
    ran = check(SAMPLES, "--json")
    document = ran.json()
    assert ran.code == 0
    assert document["newest_sound"] == "run/step-200"
    good = [c for c in document["checkpoints"] if not c["path"].startswith("broken/")]
    assert {c["path"] for c in good if c["verdict"] != "sound"} == {"run/step-300"}


# -- what only looks like one ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "word"),
    [
        (["0.metadata", "0_0.distcp", "1_0.distcp"], "PaddlePaddle"),
        (["zero_pp_rank_0_mp_rank_00_optim_states.pt", "mp_rank_00_model_states.pt"], "DeepSpeed"),
        (["model_world_size_8_rank_0.pt", "model_world_size_8_rank_1.pt"], "verl"),
        (["checkpoint_rank_0.pt", "checkpoint_rank_1.pt"], "per-rank"),
        (["pytorch_model.bin"], "torch.save"),
    ],
)
def test_other_programs_checkpoints_are_named(tmp_path: Path, names: list[str], word: str) -> None:
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    ran = check(tmp_path)
    assert ran.code == 2
    assert word in ran.out
    assert "unreadable" in ran.out.splitlines()[0]


# -- Ctrl+C ------------------------------------------------------------------------------------


def large(folder: Path, num: int) -> Path:
    """A sound checkpoint of one tensor in many small payloads, which take seconds to read."""
    import torch
    from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex

    shutil.copytree(SAMPLES / "hsdp_2x2", folder)
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    fqn = "model.net1.weight"
    entry = metadata.state_dict_metadata[fqn]
    index = next(i for i in metadata.storage_data if i.fqn == fqn)
    info = metadata.storage_data[index]
    payload = (folder / info.relative_path).read_bytes()[: info.length]
    rows, columns = entry.chunks[0].sizes
    metadata.state_dict_metadata = {fqn: entry}
    metadata.storage_data = {}
    metadata.planner_data = None
    entry.size = torch.Size([rows * num, columns])
    entry.chunks = []
    for i in range(num):
        offset = torch.Size([rows * i, 0])
        entry.chunks.append(ChunkStorageMetadata(offset, torch.Size([rows, columns])))
        stored = type(info)("__0_0.distcp", i * len(payload), len(payload))
        metadata.storage_data[MetadataIndex(fqn, offset, i)] = stored
    for path in folder.glob("*.distcp"):
        path.unlink()
    (folder / "__0_0.distcp").write_bytes(payload * num)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    return folder


def stopped_while_reading(*args: str | Path) -> str:
    """What a command prints that Ctrl+C ends while it reads a data file."""
    command = [sys.executable, "-m", "inspector", *map(str, args)]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 300
    while not reads(process.pid, "__0_0.distcp"):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 2, (out, err)
    assert err.splitlines() == ["hsdp-inspect: stopped before every byte was read"]
    return out


def reads(pid: int, name: str) -> bool:
    """Whether a process has a file of this name open."""
    try:
        return any(link.resolve().name == name for link in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
@pytest.mark.parametrize("form", some_fast(["text", "json"], ["json"]))
def test_ctrl_c_stops_at_once_and_says_what_was_covered(tmp_path: Path, form: str) -> None:
    num = 60_000
    folder = large(tmp_path / "ckpt", num)
    out = stopped_while_reading("check", folder, "--deep", "--format", form)
    if form == "text":
        assert "stopped before every byte was read" in out.splitlines()[0]
        assert "cancelled" in out
        assert "every byte of" not in out
        return
    checked = json.loads(out)["checked"]
    assert 0 < checked["payloads"] < num
    (left,) = (x for x in checked["not_checked"] if x["why"] == "it was cancelled")
    assert left["what"].startswith(f"{num - checked['payloads']:,} of {num:,} payloads")


# -- attacks -----------------------------------------------------------------------------------


def malicious_metadata(folder: Path, marker: Path) -> None:
    ed.edit(folder, lambda m: m.planner_data.update({"model.net1.weight": Runs(marker)}))


def malicious_root(folder: Path, marker: Path) -> None:
    (folder / ".metadata").write_bytes(pickle.dumps(Runs(marker)))


def malicious_bytes_entry(folder: Path, marker: Path) -> None:
    ed.add_bytes(folder, "step", ed.saved(Runs(marker)), "__0_0.distcp")


ATTACKS: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "metadata": (malicious_metadata, "metadata-unsafe"),
    "nothing but a call": (malicious_root, "metadata-unsafe"),
    "bytes entry": (malicious_bytes_entry, "payload-unsafe"),
}


@pytest.fixture(params=ATTACKS)
def attack(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path, str]:
    """A malicious checkpoint, the file that its code would make, the code of the finding."""
    make, code = ATTACKS[request.param]
    folder, marker = tmp_path / "ckpt", tmp_path / "marker"
    shutil.copytree(SAMPLES / "hsdp_2x2", folder)
    make(folder, marker)
    return folder, marker, code


def test_the_attack_works_on_python(attack: tuple[Path, Path, str]) -> None:
    """Else the tests below would prove nothing."""
    import torch.distributed.checkpoint as dcp

    folder, marker, _ = attack
    try:
        dcp.load({"step": 0}, checkpoint_id=folder, no_dist=True)
    except BaseException as error:  # CheckpointException is no Exception
        assert not isinstance(error, KeyboardInterrupt)
    assert marker.exists()


@pytest.mark.parametrize("command", ["show", "show --chunks --json", "check", "check --deep"])
def test_an_attack_touches_nothing(attack: tuple[Path, Path, str], command: str) -> None:
    folder, marker, code = attack
    name, *options = command.split()
    ran = run_cli(name, folder, *options)
    assert not marker.exists()
    assert "Traceback" not in ran.err
    if name == "check" and (code.startswith("metadata") or "--deep" in options):
        assert ran.code == 1
        assert "suspicious" in ran.out
        assert f"ERROR {code}" in ran.out


async def test_an_attack_touches_nothing_in_the_screen(attack: tuple[Path, Path, str]) -> None:
    folder, marker, _ = attack
    async with opened(folder, "2", "1", "j", "enter", "escape") as (app, _):
        assert screen_text(app).strip()
    assert not marker.exists()


@pytest.mark.slow
def test_a_bomb_ends_in_time() -> None:
    ran = run_process("check", BROKEN / "metadata_bomb", timeout_s=300)
    assert ran.code == 2


def test_the_verdict_on_a_named_file_is_headed_by_it_and_not_by_its_folder(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "step-1").mkdir(parents=True)
    shutil.copy(next((SAMPLES / "hf_dcp_whole_1").glob("*.safetensors")), run / "one.safetensors")
    (run / "step-1" / ".metadata").write_bytes(b"")
    ran = run_cli("check", run / "one.safetensors")
    assert ran.code == 0
    assert ran.out.startswith(f"{run}/one.safetensors: sound")
    assert run_cli("check", run).code != 0
