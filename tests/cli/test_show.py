"""`show`: text for reading, complete when piped; JSON as the contract says."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import GOLDEN, ROOT, SAMPLES, run_cli, run_python

CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u200b\ufeff]")


def on_terminal(*args: str, columns: int = 80, env: dict[str, str] | None = None) -> str:
    """What a command draws on a terminal so wide."""
    import fcntl
    import struct
    import termios

    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update({"TERM": "xterm-256color", **(env or {})})
        os.chdir(ROOT)
        # The size must be there before the program asks for it.
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        os.execv(sys.executable, [sys.executable, "-m", "inspector", *args])
    written = b""
    while True:
        try:
            data = os.read(terminal, 65536)
        except OSError:
            break
        if not data:
            break
        written += data
    os.waitpid(pid, 0)
    os.close(terminal)
    return written.decode(errors="surrogateescape")


def test_the_summary_says_what_it_is_and_who_wrote_it() -> None:
    text = run_cli("show", SAMPLES / "hsdp_2x4").out
    assert "torch DCP, metadata version 1.0.0" in text
    assert "2.9 to 2.14" in text
    assert "hsdp:2x4, 8 ranks, sizes, boxes and owners certain" in text
    assert "24 of 24 items" in text
    assert "6 tensors in 24 chunks" in text


def test_tensors_come_in_the_order_of_the_state_dict() -> None:
    names = [t["fqn"] for t in run_cli("show", SAMPLES / "hsdp_2x4", "--json").json()["tensors"]]
    modules = ("net1", "net2", "net3")
    assert names == [f"model.{net}.{kind}" for net in modules for kind in ("weight", "bias")]


def test_a_table_fits_the_terminal_and_piped_it_is_complete() -> None:
    sample = str(SAMPLES / "fsdp2_hsdp_2x4_adamw")
    for columns in (80, 120):
        drawn = on_terminal("show", sample, columns=columns).splitlines()
        table = [line for line in drawn if "exp_avg_sq" in line]
        assert table
        assert max(map(len, table)) <= columns
    piped = run_cli("show", sample).out
    assert "optimizer.state.tok_embeddings.weight.exp_avg_sq" in piped
    assert "…" not in piped


def test_a_long_table_stops_on_a_terminal_and_says_how_to_get_the_rest() -> None:
    drawn = on_terminal("show", str(SAMPLES / "fsdp2_hsdp_2x4_adamw"))
    assert "more tensors" not in drawn  # 45 tensors are no long table


@pytest.mark.parametrize("form", [(), ("--chunks",)])
def test_no_control_character_of_a_name_reaches_the_output(form: tuple[str, ...]) -> None:
    ran = run_cli("show", SAMPLES / "names_hostile_1", *form)
    assert ran.code == 0
    assert not CONTROL.search(ran.out.replace("\n", ""))
    assert r"\x1b]52;c;" in ran.out
    drawn = on_terminal("show", str(SAMPLES / "names_hostile_1"), *form)
    assert not CONTROL.search(drawn.replace("\r\n", ""))


def test_json_has_the_names_raw() -> None:
    ran = run_cli("show", SAMPLES / "names_hostile_1", "--json")
    names = {tensor["fqn"] for tensor in ran.json()["tensors"]}
    assert any("\x1b" in name for name in names)
    assert any("\udc80" in name for name in names)
    assert ran.out.isascii()


def test_a_filter_takes_words_and_leaves_words_out() -> None:
    sample = SAMPLES / "hsdp_2x4"

    def names(text: str) -> list[str]:
        return [
            t["fqn"] for t in run_cli("show", sample, "--json", "--filter", text).json()["tensors"]
        ]

    assert names("net1") == ["model.net1.weight", "model.net1.bias"]
    assert names("NET WEIGHT !net2") == ["model.net1.weight", "model.net3.weight"]
    ran = run_cli("show", sample, "--filter", "nonsense")
    assert ran.code == 0
    assert "no name matches" in ran.err


def test_chunks_are_listed_with_file_and_bytes() -> None:
    text = run_cli("show", SAMPLES / "hsdp_uneven_2x4", "--chunks").out
    document = run_cli("show", SAMPLES / "hsdp_uneven_2x4", "--json", "--chunks").json()
    for tensor in document["tensors"]:
        for chunk in tensor["chunks"]:
            cells = [str(chunk[key]) for key in ("rank", "file", "offset", "length")]
            assert re.search(" +".join(map(re.escape, cells)), text)


def test_a_folder_of_checkpoints_is_a_list() -> None:
    document = run_cli("show", SAMPLES / "run", "--json").json()
    states = {c["path"]: (c["state"], c["step"]) for c in document["checkpoints"]}
    assert states == {
        "step-100": ("complete", 100),
        "step-200": ("complete", 200),
        "step-300": ("unfinished", 300),
    }
    assert document["newest"] == "step-200"
    text = run_cli("show", SAMPLES / "run").out
    assert "Newest complete: step-200" in text


def test_an_accelerate_folder_is_its_two_checkpoints() -> None:
    document = run_cli("show", SAMPLES / "accelerate_fsdp", "--json").json()
    assert [c["path"] for c in document["checkpoints"]] == ["optimizer_0", "pytorch_model_fsdp_0"]


def test_the_metadata_file_itself_may_be_given() -> None:
    ran = run_cli("show", SAMPLES / "hsdp_2x2" / ".metadata", "--json")
    assert ran.code == 0
    assert ran.json()["checkpoint"]["num_tensors"] == 6


def test_without_a_terminal_a_path_alone_prints_show() -> None:
    assert run_cli(SAMPLES / "hsdp_2x2").out == run_cli("show", SAMPLES / "hsdp_2x2").out


def test_a_dumb_terminal_gets_text() -> None:
    drawn = on_terminal(str(SAMPLES / "hsdp_2x2"), env={"TERM": "dumb"})
    assert "\x1b" not in drawn
    assert "hsdp:2x2" in drawn


def test_a_closed_pipe_is_no_error() -> None:
    command = (
        f"{sys.executable} -m inspector show {GOLDEN / '2.10.0' / 'fsdp4_opt'} --chunks | head -1"
    )
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, cwd=ROOT
    )
    assert done.stderr == ""
    assert done.returncode == 0


def test_a_url_is_read_through_fsspec(tmp_path: Path) -> None:
    script = (
        "import sys, fsspec, pathlib, inspector.__main__\n"
        "fs = fsspec.filesystem('memory')\n"
        "for path in pathlib.Path(sys.argv[1]).iterdir():\n"
        "    fs.pipe('/bucket/ckpt/' + path.name, path.read_bytes())\n"
        "inspector.__main__.main(['show', 'memory://bucket/ckpt', '--json'])\n"
    )
    done = run_python("-c", script, str(SAMPLES / "hsdp_2x4"), check=True)
    document = json.loads(done.out)
    assert document["checkpoint"]["written_by"]["mesh"] == "hsdp:2x4"
    assert all(file["num_bytes"] for file in document["files"])


def test_a_step_that_is_being_overwritten_is_not_called_complete(tmp_path: Path) -> None:
    """A save into a step's folder is held by torch's own writer before it writes `.metadata`."""
    import torch
    import torch.distributed.checkpoint as dcp

    run, held, go_on = tmp_path / "run", threading.Event(), threading.Event()

    class HeldWriter(dcp.FileSystemWriter):
        def finish(self, metadata: Any, results: Any) -> None:
            held.set()
            assert go_on.wait(60)
            super().finish(metadata, results)

    def save(step: int, writer: type[dcp.FileSystemWriter] = dcp.FileSystemWriter) -> None:
        state = {"weight": torch.full((64, 64), float(step))}
        dcp.save(state, storage_writer=writer(run / f"step-{step}"), no_dist=True)

    def states() -> tuple[str | None, list[tuple[str, bool]]]:
        shown = run_cli("show", run, "--json").json()
        found = [(item["state"], item["is_overwritten"]) for item in shown["checkpoints"]]
        return shown["newest"], found

    save(10)
    save(20)
    for path in sorted(run.rglob("*")):
        os.utime(path, (1.7e9, 1.7e9))
    assert states() == ("step-20", [("complete", False), ("complete", False)])
    saving = threading.Thread(target=save, args=(20, HeldWriter))
    saving.start()
    try:
        assert held.wait(60)
        assert states() == ("step-10", [("complete", False), ("complete", True)])
        text = run_cli("show", run).out
        assert re.search(r"step-20 +20 +rewritten\?", text)
        assert "after the metadata: a save over it may not have finished" in text
        assert "Newest complete: step-10" in text
        alone = run_cli("show", tmp_path, env={"COLUMNS": "80"}).out
        assert "rewritten?" in alone
    finally:
        go_on.set()
        saving.join()
    assert states() == ("step-20", [("complete", False), ("complete", False)])
