"""Every path that cannot be opened ends in one plain line, a hint, and exit code 2."""

from __future__ import annotations

import gzip
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import SAMPLES, run_cli, run_process, run_python, some_fast


def _nothing(folder: Path) -> Path:
    return folder / "not there"


def _empty(folder: Path) -> Path:
    return folder


def _file(folder: Path) -> Path:
    path = folder / "model.pt"
    path.write_bytes(b"x")
    return path


def _unrelated(folder: Path) -> Path:
    (folder / "README").write_text("hello")
    return folder


def _metadata(data: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / ".metadata").write_bytes(data)
        return folder

    return make


def _truncated(folder: Path) -> Path:
    whole = (SAMPLES / "hsdp_2x4" / ".metadata").read_bytes()
    return _metadata(whole[: len(whole) // 2])(folder)


def _torch_save(folder: Path) -> Path:
    with zipfile.ZipFile(folder / ".metadata", "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02N.")
    return folder


def _only_tmp(folder: Path) -> Path:
    shutil.copytree(SAMPLES / "hsdp_2x4", folder, dirs_exist_ok=True)
    (folder / ".metadata").rename(folder / ".metadata.tmp")
    return folder


def _no_metadata(folder: Path) -> Path:
    shutil.copytree(SAMPLES / "hsdp_2x4", folder, dirs_exist_ok=True)
    (folder / ".metadata").unlink()
    return folder


def _folder_as_metadata(folder: Path) -> Path:
    (folder / ".metadata").mkdir()
    return folder


def _fifo(folder: Path) -> Path:
    os.mkfifo(folder / ".metadata")
    return folder


def _dangling(folder: Path) -> Path:
    (folder / ".metadata").symlink_to(folder / "gone")
    return folder


def _loop(folder: Path) -> Path:
    (folder / "a").symlink_to(folder / "b")
    (folder / "b").symlink_to(folder / "a")
    return folder / "a"


CASES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "nothing there": (_nothing, "no such file"),
    "an empty folder": (_empty, "empty folder"),
    "a file": (_file, "is a file"),
    "an unrelated folder": (_unrelated, "no checkpoint"),
    "an empty metadata": (_metadata(b""), "empty"),
    "a truncated metadata": (_truncated, "too early"),
    "HTML": (_metadata(b"<!DOCTYPE html><html>"), "HTML"),
    "gzip": (_metadata(gzip.compress(b"x")), "gzip"),
    "an LFS pointer": (_metadata(b"version https://git-lfs.github.com/spec/v1\n"), "LFS"),
    "a torch.save file": (_torch_save, "torch.save"),
    "JSON": (_metadata(b'{"a": 1}'), "JSON"),
    "zeros": (_metadata(bytes(4096)), "zeros"),
    "another pickle": (_metadata(b"\x80\x04}\x8c\x01aK\x01s."), "a dict of 1 keys"),
    "only .metadata.tmp": (_only_tmp, "has not finished"),
    "data without metadata": (_no_metadata, "no .metadata"),
    "a folder named .metadata": (_folder_as_metadata, "folder"),
    "a FIFO": (_fifo, "not a regular file"),
    "a dangling link": (_dangling, "no such file"),
    "a loop of links": (_loop, "loop"),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("form", some_fast([(), ("--json",)], [()]), ids=["text", "json"])
def test_a_bad_path_gets_one_line_and_exit_code_2(
    name: str, form: tuple[str, ...], tmp_path: Path
) -> None:
    make, expected = CASES[name]
    # A pipe that is read would never end: only a process can be given up.
    run = run_process if name == "a FIFO" else run_cli
    ran = run("show", make(tmp_path), *form)
    assert ran.code == 2
    assert ran.out == ""
    lines = ran.err.splitlines()
    assert 1 <= len(lines) <= 2, ran.err
    assert lines[0].startswith("hsdp-inspect: ")
    assert expected in ran.err
    assert all(line.startswith("  hint: ") for line in lines[1:])


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become nobody")
def test_no_permission(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(SAMPLES / "hsdp_2x2", tmp_path / "ckpt"))
    tmp_path.chmod(0o755)
    folder.chmod(0o755)
    (folder / ".metadata").chmod(0o000)
    script = (
        "import os, sys, inspector.cli.group, inspector.checkpoint.find.locate\n"
        "import inspector.layout.writer.written_by\n"
        "import inspector.checkpoint.dcp, inspector.report.progress\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "from inspector.checkpoint.find.identify import identify\n"
        "from inspector.checkpoint.find.search import discover\n"
        "from inspector.checkpoint.storage.opening import open_storage\n"
        "from inspector.errors import InspectError\n"
        "from inspector.checkpoint.dcp import read_dcp\n"
        "try:\n    read_dcp(open_storage(sys.argv[1]))\n"
        "except InspectError as error:\n    print(error.message, error.exit_code)\n"
    )
    os.chmod(tmp_path.parent, 0o755)
    done = run_python("-c", script, str(folder))
    if "inspector" in done.err and "PermissionError" in done.err:
        pytest.skip("the interpreter itself may not be read by others here")
    assert "ermission denied" in done.out, done.err
    assert done.out.strip().endswith(" 2")


@pytest.mark.parametrize(
    "args",
    [
        ["show"],
        ["show", "--nonsense", "x"],
        ["--nonsense"],
        ["show", ""],
        ["show", "s3x://bucket/key"],
        ["show", "a\x1b]0;owned\x07b"],
        ["show", "x" * 5000],
    ],
)
def test_bad_arguments_are_told_and_exit_2(args: list[str]) -> None:
    ran = run_cli(*args)
    assert ran.code == 2
    assert ran.out == ""
    assert ran.err.startswith("hsdp-inspect: ")
    assert "\x1b" not in ran.err and "\x07" not in ran.err
    assert "Traceback" not in ran.err


def test_help_and_version_are_answers() -> None:
    for args in (["--help"], ["-h"], [], ["show", "--help"], ["--version"]):
        ran = run_cli(*args)
        assert ran.code == 0, ran.err
        assert ran.out
        assert ran.err == ""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["check", str(SAMPLES / "fsdp_4"), "--json", "--format", "github"], "exclude each other"),
        ([str(SAMPLES / "fsdp_4"), "--json"], "hsdp-inspect show PATH"),
        (["show", str(SAMPLES / "run"), "--filter", "net1"], "a folder of 3 checkpoints"),
        (["--", "-dash"], "-dash: there is no such file"),
    ],
)
def test_a_command_line_that_cannot_be_meant_is_explained(arguments: list[str], says: str) -> None:
    done = run_cli(*arguments)
    assert done.code == 2
    assert not done.out
    assert says in done.err


def test_a_long_path_does_not_bury_what_is_wrong_with_it() -> None:
    done = run_cli("show", "a" * 5000)
    assert done.code == 2
    assert done.err.strip().endswith("the name is too long")
    assert len(done.err) < 500


@pytest.mark.parametrize(
    ("form", "says"),
    [("safetensors", "let its name end in .safetensors"), ("torch", "zip"), ("npz", "zip")],
)
def test_an_export_whose_name_does_not_say_what_it_is_is_told_by_its_content(
    tmp_path: Path, form: str, says: str
) -> None:
    out = tmp_path / "out"
    assert run_cli("export", SAMPLES / "hsdp_2x4", out, "--format", form).code == 0
    ran = run_cli("check", out)
    assert ran.code == 2 and "is a file, not a checkpoint folder" in ran.err and says in ran.err
    if form == "safetensors":
        assert run_cli("check", out.rename(tmp_path / "out.safetensors")).code == 0
