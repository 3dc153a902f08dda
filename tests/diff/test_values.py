"""Two real checkpoints, compared value by value, however each of them is cut."""

from __future__ import annotations

import json
import math
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inspector.diff.model import Tolerance
from inspector.diff.structure import compare_structure
from inspector.diff.values import BLOCK_BYTES, DiffProgress, compare_values
from inspector.values.bits import BlockPlan, TensorBits
from sample_ckpts.maker.editing import edit
from tests.conftest import FEW_VERSIONS, GOLDEN, SAMPLES, run_python, some_fast
from tests.diff.making import (
    DTYPES,
    diff_of,
    flipped,
    only,
    place_of,
    raw_bits,
    resave,
    sample,
    shards,
    side,
    tiling,
    whole,
    write,
)

PAIRS = [("hsdp_2x4", "fsdp_8"), ("hsdp_2x2", "fsdp_4"), ("hsdp_uneven_2x4", "fsdp_uneven_8")]


# -- what is the same ----------------------------------------------------------------------------


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_an_hsdp_save_and_an_fsdp_save_of_the_same_weights_are_exact(a: str, b: str) -> None:
    found = diff_of(SAMPLES / a, SAMPLES / b)
    assert [tensor.verdict for tensor in found.tensors] == ["EXACT"] * len(found.tensors)
    assert found.tensors
    assert (found.verdict, found.exit_code) == ("same", 0)


@pytest.mark.torchrun
def test_an_hsdp_save_and_its_fsdp_resave_are_exact(tmp_path: Path) -> None:
    """Loaded under another mesh and saved again by torch: model, optimizer state, bytes entries."""
    source = SAMPLES / "fsdp2_hsdp_2x4_adamw"
    target = resave(source, tmp_path / "resaved", 3, tmp_path)
    found = diff_of(source, target)
    assert len(found.tensors) == 45
    assert {tensor.verdict for tensor in found.tensors} == {"EXACT"}
    assert len(found.entries) == 24
    assert {entry.verdict for entry in found.entries} == {"EXACT"}
    assert (found.verdict, found.exit_code) == ("same", 0)
    assert any(change.b == ("Shard(0)",) for change in found.placements)


@pytest.mark.parametrize("name", ["dtypes_4", "accelerate_fsdp/optimizer_0", "fsdp2_tp_2x2"])
def test_a_checkpoint_is_the_same_as_itself(name: str) -> None:
    found = diff_of(SAMPLES / name, SAMPLES / name)
    assert found.verdict == "same"
    assert {tensor.verdict for tensor in found.tensors if not tensor.is_empty} == {"EXACT"}
    for tensor in found.tensors:
        assert tensor.num_compared == tensor.num_elements


# -- random cuts, random differences --------------------------------------------------------------


@pytest.mark.slow
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    dtype=st.sampled_from(DTYPES),
    shape=st.lists(st.integers(1, 9), min_size=0, max_size=4).map(tuple),
    seed=st.integers(0, 2**20),
    num=st.integers(0, 5),
    data=st.data(),
)
def test_planted_differences_are_found_exactly(
    tmp_path_factory: pytest.TempPathFactory,
    dtype: torch.dtype,
    shape: tuple[int, ...],
    seed: int,
    num: int,
    data: Any,
) -> None:
    """Beside torch's own comparison of the whole tensors."""
    x = sample(dtype, shape, seed)
    y = x
    count = x.numel()
    positions = data.draw(st.sets(st.integers(0, count - 1), max_size=num))
    for position in positions:
        # Of a bool, the only other value.
        bit = 0 if dtype == torch.bool else data.draw(st.integers(0, 8 * dtype.itemsize - 1))
        y = flipped(y, position, bit)
    folder = tmp_path_factory.mktemp("pair")
    a = write(folder / "a", {"t": x}, {"t": tiling(shape, seed)})
    b = write(folder / "b", {"t": y}, {"t": tiling(shape, seed + 1)})
    found = only(diff_of(a, b))
    assert found.num_compared == count
    assert found.num_different == len(positions)
    if not positions:
        assert (found.verdict, found.first_index, found.max_abs) == ("EXACT", None, 0)
        return
    first = torch.unravel_index(torch.tensor(min(positions)), shape)
    assert found.first_index == tuple(int(i) for i in first)
    assert found.verdict in ("CLOSE", "DIFFER", "NON_FINITE")
    if dtype.is_complex or dtype.is_floating_point or dtype.itemsize < 8:
        wide = torch.complex128 if dtype.is_complex else torch.float64
        p, q = x.to(wide).reshape(-1), y.to(wide).reshape(-1)
        finite = torch.isfinite(p) & torch.isfinite(q)
        at = torch.tensor(sorted(positions))
        gap = (p - q).abs()[at][finite[at]]
        assert found.max_abs == (gap.max().item() if len(gap) else None)
        one_sided = ~finite & ~(torch.isnan(p) & torch.isnan(q))
        if not dtype.is_complex:
            assert found.num_non_finite == int(one_sided[at].sum())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_one_flipped_bit_is_found_at_its_index(tmp_path: Path, dtype: torch.dtype) -> None:
    x = sample(dtype, (7, 6, 5))
    a = write(tmp_path / "a", {"t": x}, {"t": shards((7, 6, 5), 0, 4)})
    b = write(tmp_path / "b", {"t": flipped(x, 100)}, {"t": shards((7, 6, 5), 2, 2)})
    found = only(diff_of(a, b))
    assert found.num_different == 1
    assert found.first_index == (3, 2, 0)
    assert found.is_different


def test_a_large_tensor_is_compared_in_many_blocks(tmp_path: Path) -> None:
    """More blocks than one thread's portion, cut along either dim; the last element differs."""
    shape = (3000, 4096)
    x = torch.arange(math.prod(shape), dtype=torch.float32).reshape(shape)
    y = x.clone()
    y[-1, -1] += 64
    y[1500, 7] = math.nan
    a = write(tmp_path / "a", {"t": x}, {"t": shards(shape, 0, 5)})
    b = write(tmp_path / "b", {"t": y}, {"t": shards(shape, 1, 7)})
    assert BlockPlan.of(shape, 4, BLOCK_BYTES).num_blocks > 32
    for workers in (1, 3):
        found = only(diff_of(a, b, workers=workers))
        assert (found.verdict, found.num_different) == ("NON_FINITE", 2)
        assert (found.first_index, found.first_non_finite) == ((1500, 7), (1500, 7))
        assert (found.max_abs, found.max_abs_index) == (64.0, (2999, 4095))
        assert found.num_compared == x.numel()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read there")
def test_memory_does_not_grow_with_the_tensor(tmp_path: Path) -> None:
    """In fresh processes without torch: the peak for 400 MB, beside that for 8 MB."""
    script = (
        "import re, sys\n"
        "from inspector.checkpoint import open_checkpoint\n"
        "from inspector.checkpoint.find.locate import folder_of\n"
        "from inspector.diff.model import Side\n"
        "from inspector.diff.structure import compare_structure\n"
        "from inspector.diff.values import compare_values\n"
        "sides = [Side(open_checkpoint(path), folder_of(path)) for path in sys.argv[1:]]\n"
        "found = compare_values(compare_structure(*sides))\n"
        "assert found.tensors[0].num_different == 1, found\n"
        "print(re.search(r'VmHWM:\\s*(\\d+) kB', open('/proc/self/status').read())[1])\n"
    )
    peaks = []
    for rows in (500, 25_000):
        shape = (rows, 2048)
        x = torch.zeros(shape)
        a = write(tmp_path / f"a{rows}", {"t": x}, {"t": shards(shape, 0, 4)})
        x[-1, -1] = 1
        b = write(tmp_path / f"b{rows}", {"t": x}, {"t": shards(shape, 1, 4)})
        done = run_python("-c", script, str(a), str(b), check=True)
        peaks.append(int(done.out) << 10)
    assert peaks[1] - peaks[0] < 16 << 20


# -- verdicts -----------------------------------------------------------------------------------


def pair(tmp_path: Path, x: torch.Tensor, y: torch.Tensor) -> tuple[Path, Path]:
    return write(tmp_path / "a", {"t": x}), write(tmp_path / "b", {"t": y})


def test_close_is_different_and_says_how_far(tmp_path: Path) -> None:
    x = torch.ones(10)
    y = x.clone()
    y[3] = torch.nextafter(torch.tensor(1.0), torch.tensor(2.0))
    diff = diff_of(*pair(tmp_path, x, y))
    found = only(diff)
    assert (found.verdict, found.max_ulps, found.num_not_close) == ("CLOSE", 1, 0)
    assert found.max_abs == 2**-23
    assert found.max_rel == pytest.approx(2**-23)
    assert (diff.verdict, diff.exit_code, diff.is_close) == ("different", 1, True)
    assert only(diff_of(tmp_path / "a", tmp_path / "b", tolerance=Tolerance(0.0))).verdict == (
        "DIFFER"
    )


def test_shape_and_dtype(tmp_path: Path) -> None:
    a = write(tmp_path / "a", {"s": torch.zeros(3, 4), "d": torch.tensor([1.0, 1.0 / 3])})
    b = write(tmp_path / "b", {"s": torch.zeros(4, 3), "d": torch.tensor([1.0, 1 / 3]).bfloat16()})
    diff = diff_of(a, b)
    by_name = {tensor.fqn: tensor for tensor in diff.tensors}
    assert by_name["s"].verdict == "SHAPE"
    assert by_name["s"].detail == "[3, 4] in A, [4, 3] in B"
    dtype = by_name["d"]
    assert (dtype.verdict, dtype.num_different, dtype.first_index) == ("DTYPE", 1, (1,))
    assert dtype.max_abs == abs(torch.tensor(1 / 3).item() - torch.tensor(1 / 3).bfloat16().item())
    assert diff.exit_code == 1


def test_a_dtype_that_lost_nothing_says_so(tmp_path: Path) -> None:
    x = sample(torch.bfloat16, (40,))
    found = only(diff_of(*pair(tmp_path, x, x.float())))
    assert found.verdict == "DTYPE"
    assert "every value is the same number" in found.detail


def test_a_tensor_without_elements_is_never_exact(tmp_path: Path) -> None:
    full, empty = torch.ones(3), torch.zeros(0, 4)
    a = write(tmp_path / "a", {"full": full, "empty": empty})
    b = write(tmp_path / "b", {"full": full, "empty": empty})
    diff = diff_of(a, b)
    verdicts = {tensor.fqn: tensor.verdict for tensor in diff.tensors}
    assert verdicts == {"full": "EXACT", "empty": "NOT_COMPARED"}
    assert diff.exit_code == 0
    c = write(tmp_path / "c", {"empty": empty})
    nothing = diff_of(c, c)
    assert (nothing.verdict, nothing.exit_code) == ("unknown", 2)
    none = diff_of(*(write(tmp_path / name, {}) for name in "de"))
    assert (none.verdict, none.exit_code) == ("unknown", 2)


def test_bytes_entries_are_compared(tmp_path: Path) -> None:
    state = {"step": torch.tensor(3.0)}
    same = {"lr": 1e-4, "groups": [{"betas": (0.9, 0.99)}], "rng": torch.arange(8.0)}
    a = write(tmp_path / "a", state, entries=same)
    b = write(tmp_path / "b", state, entries={**same, "lr": 2e-4, "rng": -torch.arange(8.0)})
    diff = diff_of(a, b)
    verdicts = {entry.fqn: entry.verdict for entry in diff.entries}
    assert verdicts == {"lr": "DIFFER", "groups": "EXACT", "rng": "DIFFER"}
    assert (diff.verdict, diff.exit_code) == ("different", 1)
    assert diff_of(a, a).exit_code == 0


def test_a_value_that_is_pickled_otherwise_is_the_same(tmp_path: Path) -> None:
    """What stands in a value twice is written once if it is one object."""
    pair = [0.9, 0.95]
    other = [0.9, 0.95]
    twice: dict[str, Any] = {"w": torch.ones(1), "same": [pair, pair], "zero": [[0.0], [0.0]]}
    apart: dict[str, Any] = {"w": torch.ones(1), "same": [pair, other], "zero": [[0.0], [-0.0]]}
    for name, state in (("a", twice), ("b", apart)):
        state["one"] = [[1], [1]] if name == "a" else [[1], [True]]
        dcp.save({"x": {k: [v] for k, v in state.items()}}, checkpoint_id=tmp_path / name)
    found = {entry.fqn: entry for entry in diff_of(tmp_path / "a", tmp_path / "b").entries}
    assert {fqn: entry.verdict for fqn, entry in found.items()} == {
        "x.same": "EXACT",
        "x.zero": "DIFFER",
        "x.one": "DIFFER",
    }
    assert "the same value, pickled otherwise" in found["x.same"].detail


def test_a_pickle_is_never_run(tmp_path: Path) -> None:
    """Nor does a bytes entry that names code keep the rest from being compared."""
    a, b = SAMPLES / "broken" / "payload_unsafe", SAMPLES / "broken" / "payload_unsafe"
    modules = set(sys.modules)
    diff = diff_of(a, b)
    assert diff.tensors
    assert not {"subprocess_unsafe"} & (set(sys.modules) - modules)
    assert all(entry.verdict in ("EXACT", "NOT_COMPARED") for entry in diff.entries)


# -- what cannot be compared ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("chunk_gap", "no chunk holds element"),
        ("chunk_unstored", "stores chunk"),
        ("file_missing", "cannot read"),
        ("payload_zeroed", "only zeros are there"),
        ("file_cut", "__"),
        ("path_parent", "outside the checkpoint folder"),
    ],
)
def test_a_damaged_side_is_told_of_and_is_not_the_same(name: str, why: str) -> None:
    base = json.loads((SAMPLES / "broken" / "expected.json").read_text())[name]["base"]
    for a, b in ((SAMPLES / base, SAMPLES / "broken" / name),) * 2:
        diff = diff_of(a, b)
        bad = [t for t in diff.tensors if t.verdict == "NOT_COMPARED"]
        assert bad
        assert all(t.detail for t in bad)
        assert any(why in t.detail for t in bad), bad
        assert (diff.verdict, diff.exit_code) == ("unknown", 2)
        assert any(t.verdict == "EXACT" for t in diff.tensors)


def test_pieces_that_overlap_must_agree(tmp_path: Path) -> None:
    """What per-rank metadata holds of replicas: the same box more than once."""
    x = sample(torch.float32, (4, 6))
    boxes = [((0, 0), (4, 4)), ((0, 2), (4, 4))]
    a = write(tmp_path / "a", {"t": x}, {"t": boxes})
    assert only(diff_of(a, write(tmp_path / "b", {"t": x}))).verdict == "EXACT"
    # The second chunk of a column that both hold is changed behind the metadata's back.
    path, offset, length = place_of(a, "t", (0, 2))
    data = path.read_bytes()
    from tests.diff.making import part, saved

    other = part(x, boxes[1]).clone()
    other[1, 1] += 1
    patched = data[:offset] + saved(other) + data[offset + length :]
    assert len(patched) == len(data)
    path.write_bytes(patched)
    found = only(diff_of(a, tmp_path / "b"))
    assert found.verdict == "NOT_COMPARED"
    assert "different values for the same elements" in found.detail


def test_a_tensor_of_absurd_size_is_given_up_at_once(tmp_path: Path) -> None:
    x = torch.zeros(4)
    a, b = pair(tmp_path, x, x)
    for folder in (a, b):

        def grow(metadata: Any) -> None:
            found = metadata.state_dict_metadata["t"]
            found.size = torch.Size([1 << 55])

        edit(folder, grow)
    found = only(diff_of(a, b))
    assert found.verdict == "NOT_COMPARED"
    assert "no chunk holds element" in found.detail


def test_a_name_whose_metadata_is_damaged_is_not_missing(tmp_path: Path) -> None:
    x = {"t": torch.ones(3), "u": torch.ones(2)}
    a, b = write(tmp_path / "a", x), write(tmp_path / "b", x)

    def spoil(metadata: Any) -> None:
        metadata.state_dict_metadata["t"].size = "nonsense"

    edit(b, spoil)
    diff = diff_of(a, b)
    assert not diff.only_in_a
    assert {t.fqn: t.verdict for t in diff.tensors} == {"u": "EXACT", "t": "NOT_COMPARED"}
    assert (diff.verdict, diff.exit_code) == ("unknown", 2)
    assert compare_structure(side(a), side(b)).diff().exit_code == 2


def test_chunks_that_changed_places_are_found(tmp_path: Path) -> None:
    """Which no checksum shows: every payload is as it was written."""
    found = diff_of(SAMPLES / "hsdp_2x2", SAMPLES / "broken" / "pointers_swapped")
    assert {t.fqn: t.verdict for t in found.tensors if t.verdict != "EXACT"} == {
        "model.net1.weight": "DIFFER"
    }


def test_a_safetensors_checkpoint_that_lacks_a_file_is_the_same_as_nothing() -> None:
    """The tensors of that file are known to nobody: not even to itself it is the same."""
    folder = SAMPLES / "broken" / "st_file_missing"
    found = side(folder)
    diff = compare_values(compare_structure(found, found))
    assert {tensor.verdict for tensor in diff.tensors} == {"EXACT"}
    assert "is not there" in diff.missing_parts[0]
    assert (diff.verdict, diff.exit_code) == ("unknown", 2)


# -- how it is stored ----------------------------------------------------------------------------


def test_strides_do_not_matter(tmp_path: Path) -> None:
    x = sample(torch.float32, (300, 500))
    a = write(tmp_path / "a", {"t": x, "c": x}, strided=True)
    turned = {"t": x.t().contiguous().t(), "c": torch.complex(x, -x).conj().real}
    b = write(tmp_path / "b", turned, {"t": shards((300, 500), 1, 3)}, strided=True)
    assert [t.verdict for t in diff_of(a, b).tensors] == ["EXACT", "EXACT"]


def test_a_large_transposed_chunk_is_read_in_parts(tmp_path: Path) -> None:
    x = torch.arange(2000 * 1500, dtype=torch.float64).reshape(2000, 1500)
    a = write(tmp_path / "a", {"t": x})
    b = write(tmp_path / "b", {"t": x.t().contiguous().t()}, strided=True)
    assert only(diff_of(a, b)).verdict == "EXACT"


def test_compressed_payloads(tmp_path: Path) -> None:
    from torch.distributed.checkpoint._extension import ZStandard

    x = {"large": sample(torch.float32, (1100, 2000)), "small": sample(torch.int16, (5,))}
    writer = dcp.FileSystemWriter(tmp_path / "a", _extensions=[ZStandard()])
    dcp.save(dict(x), storage_writer=writer, no_dist=True)
    y = {**x, "large": flipped(x["large"], 2_000_000, 3)}
    b = write(tmp_path / "b", y, {"large": shards((1100, 2000), 1, 4)})
    found = {tensor.fqn: tensor for tensor in diff_of(tmp_path / "a", b).tensors}
    assert found["small"].verdict == "EXACT"
    assert (found["large"].num_different, found["large"].first_index) == (1, (1000, 0))
    assert found["large"].num_compared == 2_200_000


@pytest.mark.parametrize(
    "version", some_fast(sorted(p.name for p in GOLDEN.iterdir() if p.is_dir()), FEW_VERSIONS)
)
def test_saves_of_every_torch_are_the_same_as_themselves(version: str) -> None:
    for metadata in sorted((GOLDEN / version).rglob(".metadata")):
        diff = diff_of(metadata.parent, metadata.parent)
        assert {t.verdict for t in diff.tensors if not t.is_empty} <= {"EXACT"}, metadata
        assert diff.exit_code == 0 or not diff.tensors


# -- names ---------------------------------------------------------------------------------------


def test_renamed_tensors_are_found_by_content(tmp_path: Path) -> None:
    w, zeros = sample(torch.float32, (6, 5)), torch.zeros(5)
    x = {f"model.layers.{i}.{n}": v for i in range(3) for n, v in (("w", w + i), ("b", zeros))}
    y = {name.replace("model.", "backbone."): value for name, value in x.items()}
    y["backbone.layers.1.w"] = w + 7
    a = write(tmp_path / "a", x)
    b = write(tmp_path / "b", y, {name: tiling(v.shape, 3) for name, v in y.items()})
    diff = diff_of(a, b)
    assert dict(diff.renamed) == {
        name: name.replace("model.", "backbone.") for name in x if name != "model.layers.1.w"
    }
    assert diff.only_in_a == ("model.layers.1.w",)
    assert diff.only_in_b == ("backbone.layers.1.w",)
    assert diff.likely_renamed == (("model.layers.1.w", "backbone.layers.1.w"),)
    assert diff.exit_code == 1


# -- progress and stopping -----------------------------------------------------------------------


def test_progress_rises_to_the_end(tmp_path: Path) -> None:
    shape = (1000, 3000)
    a = write(tmp_path / "a", {"t": torch.zeros(shape), "only_a": torch.ones(1000)})
    b = write(tmp_path / "b", {"t": torch.zeros(shape), "only_b": torch.ones(1000)})
    seen: list[DiffProgress] = []
    told = []

    def progress(now: DiffProgress) -> bool:
        seen.append(now)
        return False

    diff = diff_of(a, b, progress=progress, on_tensor=lambda t: told.append(t.fqn))
    assert diff.renamed == (("only_a", "only_b"),)
    assert [p.bytes_done for p in seen] == sorted(p.bytes_done for p in seen)
    last = seen[-1]
    assert last.bytes_done == last.bytes_total == 2 * (12_000_000 + 4000) == diff.bytes_read
    assert (last.tensors_done, last.tensors_total) == (1, 1)
    assert told == ["t"]


def test_it_can_be_cancelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inspector.checkpoint.workers._POLL_S", 0.001)
    read = TensorBits.read

    def slowly(*args: Any, **options: Any) -> Any:
        time.sleep(0.01)  # However busy the machine is, progress is asked before it is over.
        return read(*args, **options)

    monkeypatch.setattr(TensorBits, "read", slowly)
    shape = (2000, 4000)
    x = torch.zeros(shape)
    a, b = pair(tmp_path, x, x)
    before = threading.active_count()
    diff = diff_of(a, b, progress=lambda _: True)
    assert diff.is_cancelled
    found = only(diff)
    assert found.verdict != "EXACT" or found.num_compared == x.numel()
    assert (diff.verdict, diff.exit_code) == ("unknown", 2)
    assert threading.active_count() == before


def test_raw_bits_of_the_helper_are_the_elements() -> None:
    assert raw_bits(torch.tensor([1, 2], dtype=torch.int16)) == b"\1\0\2\0"
    assert whole((2, 3)) == [((0, 0), (2, 3))]
