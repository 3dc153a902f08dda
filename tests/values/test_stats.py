"""`collect_stats`: the figures are torch's, each element counts once, what is not read is said."""

from __future__ import annotations

import math
import pickle
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from inspector.checkpoint import open_checkpoint
from inspector.checkpoint.find.locate import folder_of
from inspector.values.gather import _joined, _Sums
from inspector.values.stats import StatsReport, collect_stats
from sample_ckpts.maker.editing import edit
from tests.checks.test_payloads import patch, place, save
from tests.conftest import SAMPLES, folders_with_metadata
from tests.diff.making import saved
from tests.values.torch_stats import load, same

GOOD = list(folders_with_metadata(SAMPLES))
DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex32,
    torch.complex64, torch.complex128, torch.bool, torch.uint8, torch.int8, torch.uint16,
    torch.int16, torch.uint32, torch.int32, torch.uint64, torch.int64, torch.float8_e4m3fn,
    torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.float8_e8m0fnu,
]  # fmt: skip


def stats_of(folder: Path, tensors: list[int] | None = None, **options: Any) -> StatsReport:
    checkpoint = open_checkpoint(str(folder))
    return collect_stats(checkpoint, folder_of(str(folder)), tensors, **options)


@pytest.mark.parametrize("folder", GOOD, ids=lambda p: str(p.relative_to(SAMPLES)))
def test_every_sample_as_torch_sums_it_up(folder: Path) -> None:
    report = stats_of(folder)
    tensors = load(folder)
    assert not report.not_read
    assert not report.is_cancelled
    assert {t.fqn for t in report.tensors} == set(tensors)
    for stats in report.tensors:
        same(stats, tensors[stats.fqn])


def test_there_are_samples_of_every_shape() -> None:
    names = {p.name for p in GOOD}
    assert {"dtypes_4", "fsdp2_tp_2x2", "hsdp_uneven_2x4", "hsdp_2x4"} <= names


@pytest.mark.parametrize("count", [40, 30_000], ids=["few", "many"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_type_with_every_pattern(tmp_path: Path, dtype: torch.dtype, count: int) -> None:
    """Random bytes: NaN, infinities, subnormals and all."""
    raw = torch.randint(0, 256, (count * dtype.itemsize,), generator=torch.Generator())
    tensor = raw.to(torch.uint8)
    tensor = tensor % 2 if dtype == torch.bool else tensor
    tensor = tensor.view(dtype).reshape(-1, 5)
    if dtype in (torch.float64, torch.complex128):
        # Squares of its largest numbers are infinite, for torch as well.
        parts = torch.view_as_real(tensor) if dtype.is_complex else tensor
        parts[parts.abs() > 1e150] = float("nan")
    folder = save(tmp_path / "ck", {"w": tensor})
    (stats,) = stats_of(folder).tensors
    same(stats, tensor)
    assert stats.histogram.num_elements == stats.num_finite


def test_large_integers_are_exact(tmp_path: Path) -> None:
    ends = [-(1 << 63), (1 << 63) - 1, 0, 3]
    folder = save(
        tmp_path / "ck",
        {"i": torch.tensor(ends), "u": torch.tensor([0, (1 << 64) - 1], dtype=torch.uint64)},
    )
    found = {t.fqn: t for t in stats_of(folder).tensors}
    assert (found["i"].low, found["i"].high) == (ends[0], ends[1])
    assert (found["u"].low, found["u"].high) == (0, (1 << 64) - 1)


def test_nothing_cancels_where_the_mean_is_large(tmp_path: Path) -> None:
    """A sum of squares in float64 would leave no digit of this deviation."""
    tensor = torch.randn(70_000, dtype=torch.float64) * 1e-3 + 1e9
    (stats,) = stats_of(save(tmp_path / "ck", {"w": tensor})).tensors
    assert stats.std == pytest.approx(tensor.std().item(), rel=1e-6)
    assert stats.std == pytest.approx(1e-3, rel=0.05)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(35.0).reshape(5, 7).t(),
        torch.arange(360.0).reshape(3, 4, 5, 6).permute(2, 0, 3, 1),
        torch.arange(360.0).reshape(3, 4, 5, 6)[1:, :3, ::2],
        torch.arange(60.0)[7:31],
        torch.tensor([[1.0], [-2.0], [0.0]]).expand(3, 4),
        torch.tensor([1 + 2j, 3 - 4j]).conj(),
        torch.tensor([1 + 2j, 3 - 4j]).conj().imag,
    ],
    ids=["transposed", "permuted", "sliced", "inside", "repeated", "conjugate", "negated"],
)
def test_strided_storages(tmp_path: Path, tensor: torch.Tensor) -> None:
    """Written by hand: `dcp.save` makes tensors contiguous."""
    folder = save(tmp_path / "ck", {"w": torch.zeros_like(tensor).contiguous()})
    patch(folder, "w", lambda _: saved(tensor))
    (stats,) = stats_of(folder).tensors
    same(stats, tensor.resolve_neg())
    bars = stats.linear(4)
    assert round(float(bars.counts.sum())) == stats.num_finite


def test_strided_storages_with_nan(tmp_path: Path) -> None:
    base = torch.arange(360.0).reshape(3, 4, 5, 6)
    tensor = base.permute(2, 0, 3, 1)[1:, :, ::2]
    base[2, 1, 3, 4] = float("nan")
    base[0, 0, 0, 0] = float("nan")  # Not in the slice.
    folder = save(tmp_path / "ck", {"w": torch.zeros(tensor.shape)})
    patch(folder, "w", lambda _: saved(tensor))
    (stats,) = stats_of(folder).tensors
    same(stats, tensor)
    assert stats.num_nan == 1


def test_zstd(tmp_path: Path) -> None:
    from torch.distributed.checkpoint._extension import ZStandard

    tensor = torch.randn(300, 100).to(torch.bfloat16)
    folder = save(tmp_path / "ck", {"w": tensor}, _extensions=[ZStandard()])
    (stats,) = stats_of(folder).tensors
    same(stats, tensor)


def test_packed_types_are_refused_by_name(tmp_path: Path) -> None:
    folder = save(tmp_path / "ck", {"w": torch.zeros(4, dtype=torch.uint8), "v": torch.ones(2)})

    def claim(metadata: Any) -> None:
        metadata.state_dict_metadata["w"].properties.dtype = torch.quint4x2

    edit(folder, claim)
    report = stats_of(folder)
    assert [t.fqn for t in report.tensors] == ["v"]
    (left,) = report.not_read
    assert (left.fqn, left.num_elements) == ("w", 4)
    assert "quint4x2" in left.why


@pytest.mark.parametrize("index", [(0, 0), (3, 2), (4, 0), (7, 4)], ids=str)
@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_planted_value_is_found_at_its_index(
    tmp_path: Path, index: tuple[int, int], value: str
) -> None:
    """Four bytes are turned in a copy of a sample; the tensor is cut in two."""
    folder = tmp_path / "ck"
    shutil.copytree(SAMPLES / "hsdp_2x2", folder)
    fqn = "model.net1.weight"
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    parts = [(i, v) for i, v in metadata.storage_data.items() if i.fqn == fqn]
    assert len(parts) > 1
    whole = load(folder)[fqn]
    info = next(v for i, v in parts[::-1] if i.offset[0] <= index[0])
    path = folder / info.relative_path
    data = bytearray(path.read_bytes())
    stored = whole[index].numpy().tobytes()
    at = data.index(stored, info.offset, info.offset + info.length)
    data[at : at + 4] = np.float32(value).tobytes()
    path.write_bytes(data)
    stats = {t.fqn: t for t in stats_of(folder).tensors}[fqn]
    assert stats.first_non_finite == index
    assert (stats.num_nan, stats.num_inf) == ((1, 0) if value == "nan" else (0, 1))
    same(stats, load(folder)[fqn])


def test_boxes_listed_twice_count_once(tmp_path: Path) -> None:
    folder = tmp_path / "ck"
    shutil.copytree(SAMPLES / "hsdp_2x2", folder)
    before = {t.fqn: t for t in stats_of(folder).tensors}

    def again(metadata: Any) -> None:
        for entry in metadata.state_dict_metadata.values():
            if hasattr(entry, "chunks"):
                entry.chunks = entry.chunks + entry.chunks

    edit(folder, again)
    report = stats_of(folder)
    assert not report.not_read
    for stats in report.tensors:
        assert (stats.num_read, stats.l2) == (stats.num_elements, before[stats.fqn].l2)


def test_overlaps_count_once_and_gaps_are_said() -> None:
    folder = SAMPLES / "broken" / "chunk_overlap_and_gap"
    report = stats_of(folder)
    (left,) = report.not_read
    stats = next(t for t in report.tensors if t.fqn == left.fqn)
    assert left.num_elements == 5
    assert "no chunk holds them" in left.why
    assert stats.num_read == stats.num_elements - 5
    # Row 3 stands in both payloads; the first one counts.
    whole = load(SAMPLES / "hsdp_2x2")[left.fqn]
    held = torch.cat([whole[:4], whole[5:]])
    assert stats.l2 == pytest.approx(torch.linalg.vector_norm(held.double()).item(), rel=1e-12)


def test_what_lies_outside_the_tensor_does_not_count() -> None:
    report = stats_of(SAMPLES / "broken" / "chunk_out_of_bounds")
    (left,) = report.not_read
    stats = next(t for t in report.tensors if t.fqn == left.fqn)
    assert stats.num_read + left.num_elements == stats.num_elements


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("chunk_gap", "no chunk holds them"),
        ("chunk_unstored", "stores it nowhere"),
        ("file_missing", "the file is not there"),
        ("file_cut", "reaches past the end"),
        ("payload_zeroed", "only zeros are there"),
        ("payload_dtype", "its payload holds float32, not int32"),
        ("path_parent", "outside the checkpoint folder"),
    ],
)
def test_what_was_not_read_is_said(name: str, says: str) -> None:
    report = stats_of(SAMPLES / "broken" / name)
    assert any(says in left.why for left in report.not_read), report.not_read
    read = {t.index: t.num_read for t in report.tensors}
    total = open_checkpoint(str(SAMPLES / "broken" / name)).num_elements
    assert sum(read.values()) + sum(n.num_elements for n in report.not_read) == total


def test_entries_that_share_bytes_are_read_once(tmp_path: Path) -> None:
    folder = save(tmp_path / "ck", {"a": torch.ones(9), "b": torch.zeros(9)})
    path, offset, length = place(folder, "a")

    def share(metadata: Any) -> None:
        for info in metadata.storage_data.values():
            info.relative_path, info.offset, info.length = path.name, offset, length

    edit(folder, share)
    report = stats_of(folder)
    assert [t.l2 for t in report.tensors] == [3.0, 3.0]
    assert report.payload_bytes == length


def test_only_what_was_asked_for_is_read() -> None:
    folder = SAMPLES / "hsdp_2x4"
    everything = stats_of(folder)
    one = stats_of(folder, [3])
    (stats,) = one.tensors
    assert stats.index == 3
    assert one.payload_bytes == int(open_checkpoint(str(folder)).tensors[3].byte_length.sum())
    assert one.payload_bytes < everything.payload_bytes


def test_the_last_digit_does_not_depend_on_the_threads(tmp_path: Path) -> None:
    folder = SAMPLES / "fsdp2_adamw_4"
    runs = [
        [(t.mean, t.std, t.l2) for t in stats_of(folder, workers=n).tensors] for n in (1, 2, 3, 2)
    ]
    assert runs[0] == runs[1] == runs[2] == runs[3]


def test_cancelling_says_what_was_read(tmp_path: Path) -> None:
    folder = save(tmp_path / "ck", {f"w{i}": torch.ones(1 << 20) for i in range(40)})
    calls = 0

    def stop(_: Any) -> bool:
        nonlocal calls
        calls += 1
        return True

    threads = threading.active_count()
    report = stats_of(folder, progress=stop)
    assert threading.active_count() == threads
    assert calls
    assert len(report.tensors) + len(report.not_read) == 40
    assert report.is_cancelled == bool(report.not_read)
    assert all(t.l2 == 1024.0 for t in report.tensors)
    assert {n.why for n in report.not_read} <= {"it was stopped"}


def test_an_empty_tensor_has_no_figures(tmp_path: Path) -> None:
    folder = save(tmp_path / "ck", {"e": torch.zeros(0, 3), "x": torch.ones(1)})
    empty, one = stats_of(folder).tensors
    assert (empty.low, empty.high, empty.l2, empty.num_read) == (None, None, 0.0, 0)
    assert empty.mean != empty.mean
    assert one.std != one.std  # As torch.std of one element.


@pytest.mark.slow
def test_memory_does_not_grow_with_the_checkpoint(tmp_path: Path) -> None:
    """128 MiB of tensors; the scratch of two workers is all that is held."""
    import tracemalloc

    rows = [torch.randn(1024, 1024) for _ in range(4)]
    state = {f"w{i}": torch.cat(rows) for i in range(4)}
    state["b"] = torch.cat(rows * 8).to(torch.bfloat16)
    folder = save(tmp_path / "ck", state)
    checkpoint = open_checkpoint(str(folder))
    assert checkpoint.tensor_bytes == 128 << 20
    tracemalloc.start()
    try:
        report = collect_stats(checkpoint, folder_of(str(folder)))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 32 << 20
    for stats in report.tensors:
        # torch.std of 32 million elements is itself off by 3e-12 (as math.fsum shows).
        same(stats, state[stats.fqn], 1e-10)


@pytest.mark.parametrize("rows", [1 << 15, 1 << 25])
def test_elements_that_take_no_bytes(tmp_path: Path, rows: int) -> None:
    """A payload of one element that says it holds 2**30 of them, or 2**50."""
    folder = save(tmp_path / "ck", {"w": torch.zeros(2, 2)})
    shape = torch.Size([rows, rows])

    def claim(metadata: Any) -> None:
        entry = metadata.state_dict_metadata["w"]
        entry.size = entry.chunks[0].sizes = shape

    edit(folder, claim)
    patch(folder, "w", lambda _: saved(torch.tensor(-2.0).expand(shape)))
    report = stats_of(folder)
    if rows == 1 << 15:
        (stats,) = report.tensors
        assert (stats.num_read, stats.mean, stats.std) == (1 << 30, -2.0, 0.0)
        assert stats.l2 == 2.0 * (1 << 15)
    else:
        (left,) = report.not_read
        assert "more elements than there can be" in left.why


@pytest.mark.parametrize("scale", [1e308, 1e-200, 1e-320, 3.0])
def test_what_can_be_written_does_not_overflow(tmp_path: Path, scale: float) -> None:
    """In one block, in several, and in several chunks."""
    values = torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64) * scale
    many = values.repeat(100_000)
    state = {"few": values, "many": many}
    few, lots = sorted(stats_of(save(tmp_path / "ck", state)).tensors, key=lambda t: t.fqn)
    for found, times in ((few, 1), (lots, 100_000)):
        count = 3 * times
        assert found.mean == pytest.approx(scale / 3, rel=1e-3, abs=0)
        std = scale * math.sqrt(8 / 9 * count / (count - 1))
        assert found.std == pytest.approx(std, rel=1e-3, abs=0)
        # The root of the sum of so many squares is itself too large.
        fits = times == 1 or scale < 1e300
        wanted = scale * math.sqrt(count) if fits else math.inf
        assert found.l2 == pytest.approx(wanted, rel=1e-3, abs=0)
    two = _joined(
        np.array([1, 2]), np.array([scale, 0.0]), np.array([0.0, scale]), _sums(-scale, scale)
    )
    assert two.deviation == pytest.approx(scale * math.sqrt(8 / 9), rel=1e-3, abs=0)


def _sums(low: float, high: float) -> _Sums:
    sums = _Sums()
    sums.low, sums.high = low, high
    return sums
