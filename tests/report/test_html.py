"""The pages of `--format html`: every word stands there, nothing else does, and they stay small."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inspector.checkpoint.dcp import read_dcp
from inspector.checkpoint.model import Checkpoint, Tensor
from inspector.checkpoint.storage.opening import open_storage
from inspector.checkpoint.text import printable
from inspector.checks.findings import Coverage, Finding, NotChecked, Report
from inspector.checks.judge import check_storage
from inspector.checks.payload.deep import DeepRequest, check_deep
from inspector.cli.group import run_command
from inspector.errors import UsageError
from inspector.report.html.check import check_html
from inspector.report.html.maps import MapMark, chunk_map
from inspector.report.html.markup import Html, as_ascii, join, tag, text
from inspector.report.html.verify import verify_html
from inspector.report.progress import PayloadLine
from inspector.verify.progress import JobState
from tests.conftest import SAMPLES, run_cli, some_fast
from tests.helpers.pages import read_page
from tests.tui.verify_driver import job_events

MAX_PAGE = 2_000_000

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'><svg/onload=alert(1)>",
    "</title></style></textarea><b>",
    "<!-- --> ]]> &lt;b&gt; &amp; &#60;",
    "a\x1b[31mred\x1b]0;title\x07",
    "a\u202egnp.exe\u2066",
    "zero\u200bwidth\x00nul\r\nline",
    "lone\ud800surrogate",
    "https://user:secret@host/x?token=secret",
    "漢字" * 50,
    "x" * 100_000,
]


def everything(findings: Iterable[Finding]) -> list[str]:
    return [word for f in findings for word in (f.message, f.torch_does, f.hint, f.code) if word]


def page_of(report: Report, checkpoint: Checkpoint | None = None, **more: Any) -> str:
    return "".join(check_html(report, checkpoint, "hsdp-inspect check X", **more))


def run_page(capsys: pytest.CaptureFixture[str], *args: str | Path) -> tuple[str, int]:
    code = run_command([str(a) for a in args])
    return capsys.readouterr().out, code


# What stands on it.


BROKEN = sorted(path.name for path in (SAMPLES / "broken").iterdir() if path.is_dir())
FEW = ("chunk_gap", "chunk_unstored", "metadata_cut", "metadata_unsafe", "name_bidi", "paddle")


@pytest.mark.parametrize("name", some_fast(BROKEN, FEW))
def test_every_word_of_every_finding_stands_there(name: str) -> None:
    read: list[Checkpoint] = []
    storage = open_storage(str(SAMPLES / "broken" / name))
    report = check_storage(storage, on_read=read.append)
    page = read_page(page_of(report, *read[:1]))
    missing = [word for word in everything(report.findings) if printable(word) not in page.text]
    assert missing == []
    for left in report.checked.not_checked:
        assert left.what in page.text and left.why in page.text


@pytest.mark.parametrize("name", ["bit_flip", "chunk_overlap_and_gap", "file_missing", "file_cut"])
def test_the_page_of_a_deep_check_draws_what_is_wrong(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = SAMPLES / "broken" / name
    document = run_cli("check", folder, "--deep", "--json").json()
    markup, code = run_page(capsys, "check", folder, "--deep", "--format", "html")
    page = read_page(markup)
    assert code == 1
    assert "damaged" in page.text
    assert all(finding["message"] in page.text for finding in document["findings"])
    kinds = {e[1]["class"].split()[1] for e in page.of_class("mark")}
    assert kinds == ({"gap", "overlap"} if "gap" in name else {"other"})


def test_what_made_it_stands_there(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    args = ["check", str(SAMPLES / "fsdp_4"), "--format", "html"]
    monkeypatch.setattr(sys, "argv", ["x", *args, "s3://u:secret@b/?sig=secret"])
    page = read_page(run_page(capsys, *args)[0])
    assert f"hsdp-inspect check {shlex.quote(args[1])} --format html" in page.text
    assert re.search(r"hsdp-inspect \d.* · torch \d.* · Python \d.* · \d{4}-\d\d-\d\d", page.text)
    assert "secret" not in page.text


def test_a_run_folder_says_each_step_and_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    run = SAMPLES / "run"
    document = run_cli("check", run, "--json").json()
    markup, code = run_page(capsys, "check", run, "--format", "html")
    page = read_page(markup)
    assert code == 0
    assert f"Newest sound checkpoint: {document['newest_sound']}." in page.text
    assert "no bytes were read" in page.text
    for checkpoint in document["checkpoints"]:
        assert checkpoint["path"] in page.text
        assert all(finding["message"] in page.text for finding in checkpoint["findings"])


def test_a_plan_has_a_row_for_every_rank(capsys: pytest.CaptureFixture[str]) -> None:
    args = ("plan", SAMPLES / "broken" / "chunk_gap", "--mesh", "hsdp:2x3")
    document = run_cli(*args, "--json").json()
    markup, code = run_page(capsys, *args, "--format", "html")
    page = read_page(markup)
    assert code == 1
    assert document["headline"] in page.text
    assert all(problem["message"] in page.text for problem in document["problems"])
    ranks = page.text.rpartition("To prove it")[0].rpartition("Ranks")[2]
    rows = re.findall(r"\n(\d)\n+replica (\d), shard (\d)\n", ranks)
    assert rows == [(str(r), str(r // 3), str(r % 3)) for r in range(6)]
    assert page.of_class("gap")


def test_a_comparison_says_what_differs_and_draws_where(capsys: pytest.CaptureFixture[str]) -> None:
    args = ("diff", SAMPLES / "broken" / "bit_flip", SAMPLES / "fsdp_4", "--values")
    document = run_cli(*args, "--json").json()
    markup, code = run_page(capsys, *args, "--format", "html")
    page = read_page(markup)
    assert code == 1
    assert "different: 1 DIFFER, 5 EXACT" in page.text
    for tensor in document["tensors"]:
        assert tensor["fqn"] in page.text
    # On the one in two chunks and on the other in four.
    assert len(page.of_class("chunk")) == 6
    assert len(page.of_class("mark")) == 2


def test_a_verification_says_what_it_rests_on() -> None:
    state = JobState()
    names = ["model.net1.weight", "model.net2.bias"]
    for event in job_events(names=names, differs=[(names[0], 5)], killed=None):
        state.apply(event)
    checkpoint = read_dcp(open_storage(str(SAMPLES / "fsdp_4")))
    page = read_page("".join(verify_html(state.snapshot(), checkpoint, "hsdp-inspect verify X")))
    assert "DIFFERS: 1 entry of 2 under hsdp:2x4 (8 ranks, cpu, gloo)" in page.text
    assert "1 of 2 entries are exact" in page.text
    assert "rank 5, compare, 17 of 4,096 elements, first at [513, 7]" in page.text
    rows = [e for e in page.elements if e[0] == "tr"]
    assert len([r for r in rows if "bad" in r[1].get("class", "")]) == 1
    ranks = re.findall(r"\n(\d)\n+done\n", page.text)
    assert ranks == [str(rank) for rank in range(8)]


# Colours: green is for what was proven.


@pytest.mark.parametrize(
    ("args", "tone"),
    [
        (("check", "fsdp_4"), "plain"),
        (("check", "fsdp_4", "--deep"), "good"),
        (("check", "run"), "plain"),
        (("check", "broken/empty"), "open"),
        (("check", "broken/metadata_cut"), "bad"),
        (("plan", "fsdp_4", "--mesh", "fsdp:2"), "plain"),
        (("diff", "fsdp_4", "fsdp_8"), "plain"),
        (("diff", "fsdp_4", "fsdp_8", "--values"), "good"),
        (("diff", "fsdp_4", "broken/file_missing", "--values"), "open"),
    ],
)
def test_green_is_what_was_read_to_its_last_byte(
    args: Sequence[str], tone: str, capsys: pytest.CaptureFixture[str]
) -> None:
    full = [str(SAMPLES / a) if (SAMPLES / a).exists() else a for a in args]
    page = read_page(run_page(capsys, *full, "--format", "html")[0])
    assert [e[1]["class"] for e in page.of_class("verdict")] == [f"verdict {tone}"]


def test_a_check_that_was_stopped_is_not_green() -> None:
    read: list[Checkpoint] = []
    storage = open_storage(str(SAMPLES / "fsdp_4"))

    def deep(checkpoint: Checkpoint, storage: Any) -> Any:
        wanted = DeepRequest(payloads=True, values=False)
        return check_deep(checkpoint, storage, wanted, lambda: PayloadLine(sys.stderr))

    report = check_storage(storage, deep=deep, on_read=read.append)
    assert "verdict good" in page_of(report, read[0])
    page = page_of(report, read[0], is_stopped=True)
    assert "verdict open" in page and "stopped before every byte was read" in page


@pytest.mark.parametrize(("exact", "tone"), [(2, "good"), (1, "plain")])
def test_a_verification_of_a_part_is_not_green(exact: int, tone: str) -> None:
    state = JobState()
    for event in job_events(names=["a", "b"]):
        if event["event"] == "result":
            event["tensors"]["exact"] = exact
        state.apply(event)
    assert f"verdict {tone}" in "".join(verify_html(state.snapshot(), None, ""))


# Hostile input.


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_a_name_is_text_and_nothing_else(name: str) -> None:
    finding = Finding("chunk-gap", name, name, name, fqn=name, file=name)
    left = NotChecked(name, name)
    report = Report(name, (finding,), Coverage(1, 1, 1, not_checked=(left,)))
    storage = open_storage(str(SAMPLES / "fsdp_4"))
    checkpoint = read_dcp(storage)
    columns = replace(checkpoint.columns, fqns=[name, *checkpoint.columns.fqns[1:]])
    renamed = replace(checkpoint, columns=columns)
    marked = replace(finding, offsets=(0, 0), sizes=(1, 1))
    whole = replace(report, findings=(marked,))
    page = read_page("".join(check_html(whole, renamed, name)))
    plain = read_page("".join(check_html(replace(report, findings=()), None, "x")))
    assert page.of_class("mark")
    assert {e[0] for e in page.elements} - {e[0] for e in plain.elements} <= {
        *"div b code figure figcaption svg g rect path text table thead tbody tr th td".split()
    }
    shown = printable(name, 200)
    assert shown[:60] in page.text and shown[-60:] in page.text
    assert not any(ord(char) < 32 and char != "\n" for char in page.text)
    assert "secret" not in page.text


def test_names_of_a_real_hostile_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    folder = SAMPLES / "names_hostile_1"
    for args in (
        ("check", folder),
        ("check", folder, "--values"),
        ("plan", folder, "--mesh", "fsdp:2"),
        ("diff", folder, SAMPLES / "fsdp_4"),
    ):
        read_page(run_page(capsys, *args, "--format", "html")[0])


def test_only_the_gate_makes_markup() -> None:
    assert tag("b", "<i>", title_='"') == '<b title="&quot;">&lt;i&gt;</b>'
    assert tag("b", tag("i", "&")) == "<b><i>&amp;</i></b>"
    # A text that was put together of markup is text again.
    assert isinstance(tag("b") + "<i>", str) and not isinstance(tag("b") + "<i>", Html)
    assert text(tag("b") + "<i>") == "&lt;b&gt;&lt;/b&gt;&lt;i&gt;"
    assert join(["<", tag("b")], "&") == "&lt;&amp;<b></b>"


def test_the_page_forbids_every_load() -> None:
    markup = page_of(Report("x"))
    page = read_page(markup)
    policies = [a["content"] for tag, a in page.elements if "http-equiv" in a]
    assert len(policies) == 1
    assert policies[0].startswith("default-src 'none'; style-src 'sha256-")
    assert not re.search(r"https?:|//|url\(|@import|javascript:|<script|<link|<img", markup)


# Size.


def many(number: int, word: str) -> tuple[Finding, ...]:
    return tuple(
        Finding("payload-unreadable", f"{i} {word}", word, word, fqn=f"{i}{word}")
        for i in range(number)
    )


@pytest.mark.parametrize(
    "word", ["plain words", "漢字" * 400, "<&>" * 300], ids=["plain", "wide", "escaped"]
)
def test_sixty_thousand_findings_make_a_small_page(word: str) -> None:
    report = Report("x", many(60_000, word), Coverage(1, 1, 1))
    markup = page_of(report)
    page = read_page(markup)
    shown = len(page.of_class("finding"))
    assert len(markup) < MAX_PAGE
    assert 20 < shown <= 300
    assert f"{60_000 - shown:,} more error payload-unreadable" in page.text


def tensor_of(shape: tuple[int, ...], offsets: Any, sizes: Any, num_files: int = 4) -> Tensor:
    offsets, sizes = np.asarray(offsets, np.int64), np.asarray(sizes, np.int64)
    num = len(offsets)
    file = np.arange(num, dtype=np.int32) % num_files
    at = np.arange(num, dtype=np.int64) * 100
    return Tensor(0, "t", "float32", shape, offsets, sizes, file, at, at + 100)


def grid(rows: int, cols: int, step: int = 7) -> tuple[Any, Any]:
    at = np.stack(np.meshgrid(np.arange(rows), np.arange(cols), indexing="ij"), -1).reshape(-1, 2)
    return at * step, np.full_like(at, step)


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return read_dcp(open_storage(str(SAMPLES / "fsdp_4")))


def area(picture: str) -> tuple[int, int]:
    """Pixels of the cells of a picture of many chunks, and of all of it."""
    page = read_page(as_ascii(picture))
    cells = "".join(e[1]["d"] for e in page.elements if re.fullmatch(r"h\d", e[1].get("class", "")))
    runs = re.findall(r"M(\d+) (\d+)H(\d+)V(\d+)H\d+z", cells)
    [frame] = page.of_class("frame")
    painted = sum((int(r) - int(x)) * (int(b) - int(y)) for x, y, r, b in runs)
    return painted, int(frame[1]["width"]) * int(frame[1]["height"])


@pytest.mark.parametrize("shape", [(1000, 1000), (100_000, 1), (3, 5000), (30, 30)])
def test_a_picture_of_many_chunks_is_small_and_shows_no_hole(
    checkpoint: Checkpoint, shape: tuple[int, int]
) -> None:
    offsets, sizes = grid(*shape)
    extent = (shape[0] * 7, shape[1] * 7)
    picture = chunk_map(checkpoint, tensor_of(extent, offsets, sizes))
    painted, whole = area(picture)
    assert painted == whole
    assert len(picture) < 60_000
    # Without its first quarter there is a hole, and it is seen.
    num = len(offsets)
    picture = chunk_map(checkpoint, tensor_of(extent, offsets[num // 4 :], sizes[num // 4 :]))
    painted, whole = area(picture)
    assert 0.7 * whole < painted < 0.9 * whole


@pytest.mark.parametrize(
    ("shape", "offsets", "sizes"),
    [
        ((), [[]], [[]]),
        ((5,), [[0], [3]], [[3], [2]]),
        ((0, 4), [[0, 0]], [[0, 4]]),
        ((4, 4), [], []),
        ((4, 4), [[0, 0], [100, 100]], [[4, 4], [4, 4]]),
        ((2**62, 2**62), [[0, 0], [2**61, 2**62 - 1]], [[2**62, 2**62], [2**62, 2**62]]),
        ((2, 3, 4, 5), [[0, 0, 0, 0], [1, 0, 0, 0]], [[1, 3, 4, 5], [1, 3, 4, 5]]),
        ((1_000_000,), [[i] for i in range(700)], [[1]] * 700),
    ],
)
def test_any_tensor_can_be_drawn(
    checkpoint: Checkpoint, shape: tuple[int, ...], offsets: Any, sizes: Any
) -> None:
    ndim = len(shape)
    offsets = np.asarray(offsets, np.int64).reshape(len(offsets), ndim)
    sizes = np.asarray(sizes, np.int64).reshape(len(sizes), ndim)
    marks = [
        MapMark((0,) * ndim, (2**62,) * ndim, "gap", "gap"),
        MapMark((2**62,) * ndim, (2**62,) * ndim, "other", "beyond"),
        MapMark((0,) * (ndim + 1), (1,) * (ndim + 1), "overlap", "of another tensor"),
    ]
    picture = chunk_map(checkpoint, tensor_of(shape, offsets, sizes), marks)
    page = read_page(as_ascii(picture))
    assert "of another tensor" not in page.text
    numbers = [int(v) for e in page.elements for k, v in e[1].items() if k in ("width", "height")]
    assert all(0 <= number <= 800 for number in numbers)


# The command line.


@pytest.mark.parametrize(
    "args",
    [
        ("check", "fsdp_4"),
        ("check", "broken/chunk_gap"),
        ("check", "broken/metadata_cut"),
        ("check", "broken/empty"),
        ("plan", "broken/file_missing", "--mesh", "fsdp:2"),
        ("diff", "fsdp_4", "fsdp_uneven_4"),
        ("diff", "fsdp_4", "broken/file_missing"),
    ],
)
def test_the_exit_code_is_that_of_the_text(
    args: Sequence[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    full = [str(SAMPLES / a) if (SAMPLES / a).exists() else a for a in args]
    said, code = run_page(capsys, *full)
    out = tmp_path / "page.html"
    nothing, with_page = run_page(capsys, *full, "--format", "html", "--output", out)
    assert (nothing, with_page) == ("", code)
    read_page(out.read_text(encoding="ascii"))
    nothing, with_text = run_page(capsys, *full, "--output", out)
    assert (nothing, with_text) == ("", code)
    assert out.read_text(encoding="utf-8") == said


def test_output_replaces_one_name_of_a_file_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept, out = tmp_path / "kept", tmp_path / "page.html"
    kept.write_text("mine")
    out.hardlink_to(kept)
    run_page(capsys, "check", SAMPLES / "fsdp_4", "--format", "html", "--output", out)
    assert kept.read_text() == "mine"
    read_page(out.read_text(encoding="ascii"))


@pytest.mark.parametrize(
    "args",
    [
        ("check", "fsdp_4", "--format", "html", "--json"),
        ("plan", "fsdp_4", "--mesh", "fsdp:2", "--format", "html", "--json"),
        ("plan", "fsdp_4", "--mesh", "fsdp:2", "--format", "html", "--reads"),
        ("diff", "fsdp_4", "fsdp_4", "--format", "html", "--json"),
        ("verify", "fsdp_4", "--mesh", "fsdp:2", "--format", "html"),
        ("check", "fsdp_4", "--output", ""),
        ("check", "fsdp_4", "--output", "/"),
    ],
)
def test_what_cannot_be_meant_is_told_before_anything_is_read(args: Sequence[str]) -> None:
    full = [str(SAMPLES / a) if a == "fsdp_4" else a for a in args]
    with pytest.raises(UsageError):
        run_command(full)
