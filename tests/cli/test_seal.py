"""`hsdp-inspect seal`, and `check --manifest` later; Megatron's `integrity.json` under `--deep`."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import SAMPLES, Ran, run_cli, run_python, several_fast, some_fast
from tests.diff.making import place_of, sample, shards, tiling, write


def seal(path: Path, *args: str | Path, code: int = 0) -> Ran:
    ran = run_cli("seal", path, *args)
    assert ran.code == code, ran
    return ran


def checked(path: Path, manifest: Path, *args: str) -> tuple[int, dict[str, Any]]:
    ran = run_cli("check", path, "--manifest", manifest, "--json", *args)
    assert not ran.err
    return ran.code, ran.json()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def sealed(tmp_path: Path) -> tuple[Path, Path]:
    """A checkpoint with a bytes entry, and its seal."""
    x = {"w": sample(torch.bfloat16, (8, 6)), "b": torch.zeros(6), "none": torch.zeros(0, 2)}
    folder = write(tmp_path / "ckpt", x, {"w": shards((8, 6), 0, 4)}, {"lr": 1e-3})
    seal(folder)
    return folder, tmp_path / "ckpt.seal.json"


def test_the_seal_lies_beside_the_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "ckpt"
    shutil.copytree(SAMPLES / "hsdp_2x4", folder)
    before = contents(folder)
    ran = seal(folder)
    assert contents(folder) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ckpt", "ckpt.seal.json"]
    document = json.loads((tmp_path / "ckpt.seal.json").read_text())
    assert (document["schema"], document["kind"], document["format"]) == (
        1, "hsdp-inspect seal", "dcp",
    )  # fmt: skip
    assert document["content_sha256"] in ran.out
    assert [t["fqn"] for t in document["tensors"]] == sorted(t["fqn"] for t in document["tensors"])
    assert len(document["tensors"]) == 6


def test_a_seal_is_what_hashlib_says(sealed: tuple[Path, Path]) -> None:
    document = json.loads(sealed[1].read_text())
    by_name = {tensor["fqn"]: tensor for tensor in document["tensors"]}
    zeros = hashlib.sha256(torch.zeros(6).numpy().tobytes()).hexdigest()
    assert by_name["b"] == {
        "fqn": "b", "dtype": "float32", "shape": [6], "num_bytes": 24, "sha256": zeros,
    }  # fmt: skip
    assert document["bytes"][0]["fqn"] == "lr"


def test_nothing_changed(sealed: tuple[Path, Path]) -> None:
    code, document = checked(*sealed)
    assert (code, document["verdict"]) == (0, "sound")
    assert document["checked"]["against"] == [
        {"kind": "seal", "path": str(sealed[1]), "compared": 4, "matching": 4}
    ]
    assert document["checked"]["payloads"] > 0
    text = run_cli("check", sealed[0], "--manifest", sealed[1]).out
    assert "4 of 4 tensors and bytes entries are as" in text


def test_another_sharding_of_the_same_weights_has_the_same_seal(tmp_path: Path) -> None:
    seal(SAMPLES / "hsdp_2x4", "--output", tmp_path / "s.json")
    code, document = checked(SAMPLES / "fsdp_8", tmp_path / "s.json", "--deep")
    assert (code, document["verdict"]) == (0, "sound")
    assert document["checked"]["against"][0]["matching"] == 6
    # Sealing it finds the very same seal there.
    again = seal(SAMPLES / "fsdp_8", "--output", tmp_path / "s.json")
    assert "the same" in again.out


@pytest.mark.slow
def test_chunks_that_changed_places_are_found(tmp_path: Path) -> None:
    """`check --deep` finds every checksum right."""
    seal(SAMPLES / "hsdp_2x2", "--output", tmp_path / "s.json")
    swapped = SAMPLES / "broken" / "pointers_swapped"
    assert run_cli("check", swapped, "--deep").code == 0
    code, document = checked(swapped, tmp_path / "s.json", "--deep")
    assert (code, document["verdict"]) == (1, "damaged")
    (finding,) = [f for f in document["findings"] if f["code"] == "seal-mismatch"]
    assert (finding["fqn"], finding["severity"]) == ("model.net1.weight", "error")
    assert finding["torch_does"]
    assert finding["hint"]


@pytest.mark.parametrize("fqn", ["w", "b", "lr"])
def test_one_flipped_bit_is_found(sealed: tuple[Path, Path], fqn: str) -> None:
    folder, manifest = sealed
    path, offset, length = place_of(folder, fqn)
    data = bytearray(path.read_bytes())
    # Inside the first record's bytes: elements, or for the bytes entry its pickle.
    at = data.find(b"data/0" if fqn != "lr" else b"data.pkl", offset, offset + length)
    at = (at - offset + 63) // 64 * 64 + offset if fqn != "lr" else at
    begin = data.find(b"\x80\x02", at) + 4 if fqn == "lr" else at
    data[begin] ^= 1
    path.write_bytes(data)
    code, document = checked(folder, manifest)
    wrong = {f["fqn"] for f in document["findings"] if f["severity"] == "error"}
    assert (code, wrong) == (1, {fqn})


def test_shape_dtype_missing_and_extra(tmp_path: Path) -> None:
    x = torch.zeros(4, 6)
    a = write(tmp_path / "a", {"s": x, "d": x, "gone": x, "t": x}, entries={"e": 1, "old": 2})
    seal(a)
    b = write(
        tmp_path / "b",
        {"s": x.t(), "d": x.double(), "e": x, "new": x},
        entries={"t": 1, "more": 2},
    )
    code, document = checked(b, tmp_path / "a.seal.json")
    assert code == 1
    found = {(f["code"], f["fqn"], f["severity"]) for f in document["findings"]}
    assert found >= {
        ("seal-mismatch", "s", "error"),
        ("seal-mismatch", "d", "error"),
        ("seal-mismatch", "t", "error"),
        ("seal-mismatch", "e", "error"),
        ("seal-missing", "gone", "error"),
        ("seal-missing", "old", "error"),
        ("seal-extra", "new", "warning"),
        ("seal-extra", "more", "warning"),
    }
    assert document["checked"]["against"][0]["matching"] == 0


def test_what_is_only_more_is_a_warning(tmp_path: Path) -> None:
    x = sample(torch.int32, (5, 4))
    a = write(tmp_path / "a", {"t": x})
    seal(a)
    b = write(tmp_path / "b", {"t": x, "more": x}, {"t": tiling((5, 4), 3)})
    code, document = checked(b, tmp_path / "a.seal.json")
    assert (code, document["verdict"]) == (0, "sound")
    assert [f["code"] for f in document["findings"]] == ["seal-extra"]
    assert any("the seal does not have" in n["why"] for n in document["checked"]["not_checked"])


@pytest.mark.parametrize("name", ["file_missing", "payload_zeroed", "chunk_gap"])
def test_what_cannot_be_read_is_no_match(tmp_path: Path, name: str) -> None:
    base = json.loads((SAMPLES / "broken" / "expected.json").read_text())[name]["base"]
    seal(SAMPLES / base, "--output", tmp_path / "s.json")
    code, document = checked(SAMPLES / "broken" / name, tmp_path / "s.json")
    assert code == 1
    against = document["checked"]["against"][0]
    assert against["matching"] < against["compared"]
    assert any("cannot be compared with the seal" in f["message"] for f in document["findings"])


@pytest.mark.parametrize(
    ("name", "args", "told"),
    [
        ("file_missing", (), [("file-missing", None, "; 3 entries in it cannot be compared")]),
        ("file_cut", ("--deep",), [("file-truncated", None, "; 1 entry in it cannot be compared")]),
        (
            "chunk_gap",
            (),
            [("chunk-gap", "model.net1.weight", "[4:8, 0:5]; it cannot be compared")],
        ),
        (
            "payload_zeroed",
            ("--deep",),
            [("payload-unreadable", "model.net1.weight", "a hole; it cannot be compared")],
        ),
        # Nothing else says so: without --deep it is the seal's check alone that looks.
        (
            "payload_zeroed",
            (),
            [
                (
                    "payload-unreadable",
                    "model.net1.weight",
                    ": it cannot be compared with the seal: ",
                )
            ],
        ),
    ],
)
def test_one_fault_is_one_finding(
    tmp_path: Path, name: str, args: tuple[str, ...], told: list[tuple[str, str | None, str]]
) -> None:
    """The seal's check runs into what another found: said there, not again with other advice."""
    seal(SAMPLES / "hsdp_2x2", "--output", tmp_path / "s.json")
    code, document = checked(SAMPLES / "broken" / name, tmp_path / "s.json", *args)
    assert code == 1
    errors = [f for f in document["findings"] if f["severity"] == "error"]
    assert [(f["code"], f["fqn"]) for f in errors] == [(code, fqn) for code, fqn, _ in told]
    for finding, (_, _, words) in zip(errors, told, strict=True):
        assert words in finding["message"]
        assert finding["message"].count("cannot be compared") == 1
        assert ("check --deep says" in finding["hint"]) == (not args and name == "payload_zeroed")


# -- where the seal may go ------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["plain", "dots", "link", "link_to_folder", "below", "case"])
def test_no_seal_is_written_into_the_checkpoint(tmp_path: Path, how: str) -> None:
    folder = tmp_path / "ckpt"
    shutil.copytree(SAMPLES / "hsdp_2x2", folder)
    (folder / "deep").mkdir()
    (tmp_path / "elsewhere").symlink_to(folder)
    (tmp_path / "deeper").symlink_to(folder / "deep")
    before = contents(folder)
    target = {
        "plain": folder / "s.json",
        "dots": tmp_path / "ckpt" / ".." / "ckpt" / "s.json",
        "link": tmp_path / "elsewhere" / "s.json",
        "link_to_folder": tmp_path / "deeper" / "s.json",
        "below": folder / "deep" / "s.json",
        "case": folder / ".." / "ckpt" / "." / "__0_0.distcp",
    }[how]
    for path in (folder, tmp_path / "elsewhere"):
        ran = seal(path, "--output", target, "--force", code=2)
        assert "checkpoint folder" in ran.err
    assert contents(folder) == before


def test_a_link_to_the_checkpoint_is_sealed_beside_the_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    shutil.copytree(SAMPLES / "hsdp_2x2", tmp_path / "real" / "step-1")
    (tmp_path / "latest").symlink_to(tmp_path / "real" / "step-1")
    seal(tmp_path / "latest")
    assert (tmp_path / "latest.seal.json").exists()
    assert [p.name for p in (tmp_path / "real").iterdir()] == ["step-1"]


def test_a_file_that_is_no_seal_is_never_replaced(tmp_path: Path) -> None:
    target = tmp_path / "notes.txt"
    target.write_text("mine")
    for force in ((), ("--force",)):
        assert "is no seal" in seal(SAMPLES / "hsdp_2x2", "--output", target, *force, code=2).err
    assert target.read_text() == "mine"
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    seal(SAMPLES / "hsdp_2x2", "--output", tmp_path / "dangling", code=2)
    for bad in (tmp_path, tmp_path / "no" / "such" / "folder.json", ""):
        ran = run_cli("seal", SAMPLES / "hsdp_2x2", "--output", bad)
        assert ran.code == 2
        assert "Traceback" not in ran.err


def test_a_seal_of_other_content_is_replaced_only_if_told_to(sealed: tuple[Path, Path]) -> None:
    folder, manifest = sealed
    before = manifest.read_bytes()
    assert "already" in seal(folder).out
    assert manifest.read_bytes() == before
    shutil.rmtree(folder)
    write(folder, {"w": torch.ones(2)})
    ran = seal(folder, code=2)
    assert "seals other content" in ran.err
    assert manifest.read_bytes() == before
    seal(folder, "--force")
    assert checked(folder, manifest)[0] == 0
    assert [p.name for p in folder.parent.iterdir() if "tmp" in p.name] == []


def test_a_damaged_checkpoint_is_not_sealed(tmp_path: Path) -> None:
    for name, why in (
        ("chunk_gap", "model.net1.weight"),
        ("file_missing", "model.net1.weight"),
        ("payload_zeroed", "model.net1.weight"),
        ("st_file_missing", "is not there"),
    ):
        ran = seal(SAMPLES / "broken" / name, "--output", tmp_path / "s.json", code=2)
        assert "was not sealed" in ran.err
        assert why in ran.err
    ran = seal(SAMPLES / "broken" / "empty", "--output", tmp_path / "s.json", code=2)
    assert not list(tmp_path.glob("*"))


def test_a_remote_checkpoint_needs_an_output() -> None:
    ran = run_cli("seal", "memory://nothing/there")
    assert ran.code == 2
    assert "Traceback" not in ran.err


# -- a seal that is none --------------------------------------------------------------------------


def _named_twice(text: str) -> str:
    document = json.loads(text)
    document["tensors"].append(document["tensors"][0])
    return json.dumps(document)


DAMAGES: list[tuple[Any, str]] = [
    (lambda text: "", "not JSON"),
    (lambda text: "[" * 200_000, "not JSON"),
    (lambda text: "[1]", "is no seal"),
    (lambda text: text.replace('"schema": 1', '"schema": 2'), "another version"),
    (lambda text: text.replace('"fqn": "b"', '"name": "b"'), "damaged seal"),
    (lambda text: text.replace('"shape": [6]', '"shape": [7]'), "damaged seal"),
    (lambda text: text.replace('"shape": [6]', '"shape": "x"'), "damaged seal"),
    (lambda text: text[: len(text) // 2], "not JSON"),
    (_named_twice, "damaged seal"),
    (lambda text: text.replace('"fqn": "b"', '"fqn": "b", "sha25": 1'), "damaged seal"),
    (lambda text: text.replace('"fqn": "b"', '"fqn": "b", "fqn": "b"'), "names a key twice"),
    (lambda text: text.replace("float32", "float\\u001b[31m"), "damaged seal"),
]


@pytest.mark.parametrize(("change", "message"), several_fast(DAMAGES, DAMAGES[2::3]))
def test_a_damaged_seal_is_told_of(sealed: tuple[Path, Path], change: Any, message: str) -> None:
    folder, manifest = sealed
    manifest.write_text(change(manifest.read_text()))
    ran = run_cli("check", folder, "--manifest", manifest)
    assert (ran.code, ran.out) == (2, "")
    assert message in ran.err
    assert "\x1b" not in ran.err
    assert "Traceback" not in ran.err


def test_a_manifest_that_is_not_there_and_a_folder_of_checkpoints(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        ran = run_cli("check", SAMPLES / "hsdp_2x2", "--manifest", path)
        assert (ran.code, ran.out) == (2, "")
        assert "cannot read the seal" in ran.err
    os.mkfifo(tmp_path / "fifo")
    assert run_cli("check", SAMPLES / "hsdp_2x2", "--manifest", tmp_path / "fifo").code == 2
    ran = run_cli("check", SAMPLES, "--manifest", tmp_path / "none.json")
    assert ran.code == 2
    assert "one checkpoint" in ran.err


# -- Megatron's integrity.json ---------------------------------------------------------------------


def write_integrity(folder: Path) -> None:
    """As megatron.core.dist_checkpointing.integrity.save_integrity_manifest does."""
    files = {
        entry.name: hashlib.sha256(entry.read_bytes()).hexdigest()
        for entry in sorted(folder.iterdir())
        if entry.is_file() and entry.name != "integrity.json"
    }
    document = {"algorithm": "sha256", "files": files}
    (folder / "integrity.json").write_text(json.dumps(document, indent=2))


@pytest.fixture
def megatron(tmp_path: Path) -> Path:
    folder = tmp_path / "ckpt"
    shutil.copytree(SAMPLES / "hsdp_2x2", folder)
    (folder / "metadata.json").write_text('{"sharded_backend": "torch_dist"}')
    write_integrity(folder)
    return folder


def deep(folder: Path) -> tuple[int, dict[str, Any]]:
    ran = run_cli("check", folder, "--deep", "--json")
    assert not ran.err
    return ran.code, ran.json()


def test_integrity_json_is_read_and_it_is_said(megatron: Path) -> None:
    code, document = deep(megatron)
    assert (code, document["findings"]) == (0, [])
    assert document["checked"]["against"] == [
        {"kind": "integrity.json", "path": "integrity.json", "compared": 6, "matching": 6}
    ]
    assert "6 of 6 files are as integrity.json says" in run_cli("check", megatron, "--deep").out
    # Without --deep no file is read.
    assert run_cli("check", megatron, "--json").json()["checked"]["against"] == []


@pytest.mark.parametrize("name", ["__1_0.distcp", "metadata.json"])
def test_a_file_that_changed_is_found(megatron: Path, name: str) -> None:
    """Also one that no checksum covers."""
    path = megatron / name
    path.write_bytes(path.read_bytes() + b"\0")
    code, document = deep(megatron)
    assert code == 1
    (finding,) = [f for f in document["findings"] if f["code"] == "integrity-mismatch"]
    assert (finding["file"], finding["severity"]) == (name, "error")
    assert document["checked"]["against"][0]["matching"] == 5


def test_a_file_that_is_gone_is_found(megatron: Path) -> None:
    (megatron / "metadata.json").unlink()
    code, document = deep(megatron)
    assert (code, [f["code"] for f in document["findings"]]) == (1, ["integrity-mismatch"])


def test_a_path_out_of_the_folder_is_not_opened(megatron: Path) -> None:
    document = json.loads((megatron / "integrity.json").read_text())
    document["files"]["../secret"] = "0" * 64
    document["files"]["/etc/hostname"] = "0" * 64
    (megatron / "integrity.json").write_text(json.dumps(document))
    code, document = deep(megatron)
    messages = [f["message"] for f in document["findings"]]
    assert code == 1
    assert len(messages) == 2
    assert all("was not opened" in message for message in messages)


@pytest.mark.parametrize(
    "text",
    some_fast(
        ["", "{", "[]", '{"files": 3}', '{"files": {"a": 1}}', '{"algorithm": "md5", "files": {}}',
         "[" * 100_000],
        ["{", '{"files": {"a": 1}}'],
    ),
)  # fmt: skip
def test_an_integrity_json_that_cannot_be_read_is_a_warning(megatron: Path, text: str) -> None:
    (megatron / "integrity.json").write_text(text)
    code, document = deep(megatron)
    assert (code, [f["code"] for f in document["findings"]]) == (0, ["integrity-unreadable"])
    assert document["findings"][0]["severity"] == "warning"
    assert any("integrity.json" in n["what"] for n in document["checked"]["not_checked"])


def test_a_data_file_without_a_digest_is_named(megatron: Path) -> None:
    document = json.loads((megatron / "integrity.json").read_text())
    del document["files"]["__2_0.distcp"]
    (megatron / "integrity.json").write_text(json.dumps(document))
    code, document = deep(megatron)
    assert code == 0
    assert any("__2_0.distcp" in left["what"] for left in document["checked"]["not_checked"])


def test_the_seal_lies_beside_the_folder_that_was_given(tmp_path: Path) -> None:
    """NeMo's checkpoint is a folder in the folder that a person names."""
    shutil.copytree(SAMPLES / "nemo_2", tmp_path / "nemo_2")
    inside = run_cli("seal", tmp_path / "nemo_2", "--output", tmp_path / "nemo_2" / "x.json")
    assert (inside.code, inside.out) == (2, "")
    assert "nothing is written there" in inside.err
    assert run_cli("seal", tmp_path / "nemo_2").code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["nemo_2", "nemo_2.seal.json"]
    assert not list((tmp_path / "nemo_2").rglob("*seal*"))


@pytest.mark.slow
def test_what_cannot_be_digested_is_left_out_and_said(tmp_path: Path) -> None:
    """A tensor of a class of its own: only that class can tell its elements."""
    folder, output = tmp_path / "c", tmp_path / "c.seal.json"
    script = Path(__file__).parent / "foreign_tensor.py"
    run_python("-W", "ignore", script, folder, check=True)
    ran = seal(folder, "--output", output, code=2)
    assert "left out 1 entry" in ran.out and "w" in ran.out
    document = json.loads(output.read_text())
    assert [item["fqn"] for item in document["tensors"]] == ["b"]
    assert [item["fqn"] for item in document["not_sealed"]] == ["w"]
    _, report = checked(folder, output)
    assert not any(f["code"].startswith("seal-") for f in report["findings"])
    assert any("the seal left them out" in left["why"] for left in report["checked"]["not_checked"])
