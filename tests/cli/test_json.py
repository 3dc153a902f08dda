"""Every document that a command prints is what its published schema says, no more and no less."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from inspector.__main__ import main
from inspector.report.documents.check import WATCH_EVENTS
from tests.conftest import ROOT, SAMPLES, some_fast
from tests.helpers.schemas import DOCUMENTS, fault, schemas

_NO_SAMPLES = {"maker", "broken"}
#: The bomb takes all the time that it is allowed, every time.
_TOO_SLOW = {"metadata_bomb"}
_FOLDERS = [
    path
    for root in (SAMPLES, SAMPLES / "broken")
    for path in sorted(root.iterdir())
    if path.is_dir() and path.name not in _NO_SAMPLES | _TOO_SLOW
]
#: One of every shape that a document can have.
_FEW = {
    "fsdp2_hsdp_2x2_adamw", "hf_dcp_sharded_4", "names_hostile_1", "per_rank_metadata_2", "run",
    "chunk_gap", "values_nan",
}  # fmt: skip
_CASES = some_fast(_FOLDERS, [path for path in _FOLDERS if path.name in _FEW])

_Capture = pytest.CaptureFixture[str]


def documents(folder: Path, capsys: _Capture) -> Iterator[tuple[str, Any]]:
    """What every command prints of a sample, with the name of its schema."""
    for words, name in (
        ("show --chunks", "show"),
        ("show", "show"),
        ("check", "check"),
        ("check --deep --values", "check"),
        ("plan --mesh hsdp:2x2 --reads", "plan"),
        (f"plan --mesh fsdp:3 --against {SAMPLES / 'hsdp_2x4'}", "plan"),
        ("stats --histogram log", "stats"),
        (f"diff --values {SAMPLES / 'fsdp_4'}", "diff"),
        (f"diff {folder}", "diff"),
    ):
        command, *more = words.split()
        with pytest.raises(SystemExit):
            main([command, str(folder), *more, "--json"])
        out = capsys.readouterr().out
        if out:
            document = json.loads(out)
            if name == "show" and "checkpoints" in document:
                name = "show-folder"
            elif name == "check" and "steps" in document:
                name = "check-run"
            yield name, document


@pytest.mark.parametrize("folder", _CASES, ids=lambda p: p.name)
def test_every_document_is_of_its_schema(folder: Path, capsys: _Capture) -> None:
    told = list(documents(folder, capsys))
    # What cannot be read is judged all the same.
    assert "check" in {name.removesuffix("-run") for name, _ in told}
    for name, document in told:
        assert not (what := fault(document, DOCUMENTS[name])), f"{name}: {what}"


def test_a_seal_is_of_its_schema(tmp_path: Path, capsys: _Capture) -> None:
    with pytest.raises(SystemExit):
        main(["seal", str(SAMPLES / "dtypes_4"), "--output", str(tmp_path / "s.json"), "--json"])
    assert fault(json.loads(capsys.readouterr().out), DOCUMENTS["seal"]) == ""


def test_an_export_is_of_its_schema(tmp_path: Path, capsys: _Capture) -> None:
    """Bytes entries are left out of it, damage refuses it."""
    told = []
    for name in ("fsdp2_adamw_4", "broken/chunk_gap"):
        with pytest.raises(SystemExit):
            main(["export", str(SAMPLES / name), str(tmp_path / str(len(told))), "--json"])
        told.append(json.loads(capsys.readouterr().out))
        assert fault(told[-1], DOCUMENTS["export"]) == ""
    assert [document["verdict"] for document in told] == ["written", "refused"]


def test_what_watch_says_is_of_its_schema(capsys: _Capture) -> None:
    with pytest.raises(SystemExit):
        main(["watch", str(SAMPLES / "run"), "--once"])
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {event["event"] for event in events} >= {"step", "latest"}
    for event in events:
        assert fault(event, WATCH_EVENTS[event["event"]]) == ""


def test_a_field_too_many_or_too_few_is_a_fault() -> None:
    document: dict[str, Any] = {
        "schema": 1, "path": "p", "manifest": "m", "written": True, "content_sha256": "",
        "tensors": 0, "bytes": 0, "num_bytes": 0, "not_sealed": [{"fqn": "a", "why": "b"}],
    }  # fmt: skip
    assert fault(document, DOCUMENTS["seal"]) == ""
    assert "more" in fault(document | {"more": 1}, DOCUMENTS["seal"])
    assert "why" in fault(document | {"not_sealed": [{"fqn": "a"}]}, DOCUMENTS["seal"])
    deep = [{"fqn": "a", "why": "b", "more": None}]
    assert "more" in fault(document | {"not_sealed": deep}, DOCUMENTS["seal"])
    assert "schema" in fault(document | {"schema": 2}, DOCUMENTS["seal"])


def test_the_published_schemas_are_of_these_types() -> None:
    """`python -m tests.helpers.schemas` writes them."""
    folder = ROOT / "docs" / "json"
    published = {path.name: json.loads(path.read_text()) for path in folder.iterdir()}
    assert published == {name: json.loads(text) for name, text in schemas().items()}
