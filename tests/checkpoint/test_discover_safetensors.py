"""Which safetensors files belong together, and what a folder of several means."""

from __future__ import annotations

import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from inspector.checkpoint.find.identify import open_found
from inspector.checkpoint.find.locate import folder_of, locate, read_checkpoint
from inspector.checkpoint.find.search import discover
from inspector.checkpoint.safetensors.sets import OneSet, file_sets, main_set, shard_rank
from inspector.checkpoint.storage.opening import open_storage
from inspector.errors import NotACheckpointError
from tests.conftest import SAMPLES, run_cli


def sets(*names: str) -> dict[str, tuple[str, ...]]:
    return {found.name: found.files for found in file_sets(names)}


def test_files_are_grouped_as_their_loaders_do() -> None:
    parts = tuple(f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3))
    index = "model.safetensors.index.json"
    assert sets(*parts) == {parts[0]: parts}
    assert sets(*parts, index, "config.json") == {index: parts}
    assert sets("a.safetensors", "b.safetensors") == {
        "a.safetensors": ("a.safetensors",),
        "b.safetensors": ("b.safetensors",),
    }
    shards = tuple(f"shard-0000{r}-model-00001-of-00001.safetensors" for r in (1, 2))
    assert sets(*shards) == {shards[0]: shards}
    variant = ("unet-00001-of-00002.fp16.safetensors", "unet-00002-of-00002.fp16.safetensors")
    assert sets(*variant, "unet.safetensors.index.fp16.json", "unet.safetensors") == {
        "unet.safetensors.index.fp16.json": variant,
        "unet.safetensors": ("unet.safetensors",),
    }
    # An index of names that are not its own is one of all that lies there.
    assert sets(index, "weights.safetensors") == {index: ("weights.safetensors",)}
    assert sets("config.json", "pytorch_model.bin") == {}


def test_missing_parts_are_named() -> None:
    (found,) = file_sets(["m-00001-of-00004.safetensors", "m-00003-of-00004.safetensors"])
    assert found.missing == ("m-00002-of-00004.safetensors", "m-00004-of-00004.safetensors")
    (found,) = file_sets(["m-1-of-999999999.safetensors"])
    assert len(found.missing) == 1000  # and not a thousand million


def test_the_set_that_a_folder_means() -> None:
    def main(*names: str) -> str | None:
        found = main_set(file_sets(names))
        return None if found is None else found.name

    assert main("model.safetensors", "consolidated.safetensors") == "model.safetensors"
    assert main("a.safetensors", "b.safetensors") is None
    assert main("a.safetensors") == "a.safetensors"
    complete = "model-1-of-1.safetensors"
    assert main(complete, "model-1-of-2.safetensors") == complete
    assert main() is None


def test_ranks_of_shards() -> None:
    assert shard_rank("sharded/shard-00003-model-00001-of-00002.safetensors") == 2
    assert shard_rank("shard-00000-model-00001-of-00001.safetensors") is None
    assert shard_rank("model.safetensors") is None


@pytest.fixture
def adapters(tmp_path: Path) -> Path:
    for name, size in (("one", 2), ("two", 3)):
        save_file({"lora.weight": torch.zeros(size)}, tmp_path / f"{name}.safetensors")
    return tmp_path


def test_files_that_are_no_one_checkpoint_are_listed_and_opened_apart(adapters: Path) -> None:
    found = locate(str(adapters))
    assert isinstance(found, list)
    assert [(item.path, item.is_file) for item in found] == [
        ("one.safetensors", True),
        ("two.safetensors", True),
    ]
    for item, size in zip(found, (2, 3), strict=True):
        storage = open_found(open_storage(str(adapters)), item)
        assert isinstance(storage, OneSet)
        checkpoint = read_checkpoint(storage)
        assert checkpoint.tensors[0].shape == (size,)
        assert checkpoint.path == str(adapters / item.path)
        assert [f.path for f in checkpoint.files] == [item.path]
    ran = run_cli("check", adapters, "--json")
    assert ran.code == 0
    assert [c["verdict"] for c in ran.json()["checkpoints"]] == ["sound", "sound"]
    assert run_cli("show", adapters / "two.safetensors", "--json").json()["tensors"][0][
        "shape"
    ] == [3]
    with pytest.raises(NotACheckpointError, match="side by side"):
        read_checkpoint(open_storage(str(adapters)))


def test_what_a_consolidated_checkpoint_was_made_of_is_not_listed_again() -> None:
    found = discover(open_storage(str(SAMPLES / "hf_dcp_consolidated_2")))
    assert [item.path for item in found] == [""]


def test_a_model_with_steps_below_is_listed_with_them(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "model.safetensors")
    shutil.copytree(SAMPLES / "hsdp_2x2", tmp_path / "checkpoint-7")
    found = locate(str(tmp_path))
    assert isinstance(found, list)
    assert [(item.path, item.format) for item in found] == [
        ("", "safetensors"),
        ("checkpoint-7", "dcp"),
    ]


def test_a_download_that_is_not_done_is_unfinished(tmp_path: Path) -> None:
    shutil.copytree(SAMPLES / "hsdp_2x2", tmp_path / "b")
    shutil.copytree(SAMPLES / "transformers_1", tmp_path / "a")
    (tmp_path / "a" / "model.safetensors.index.json").unlink()
    (tmp_path / "a" / "model-00001-of-00002.safetensors").unlink()
    found = locate(str(tmp_path))
    assert isinstance(found, list)
    assert [(item.state, item.detail) for item in found] == [
        ("unfinished", "1 of its 2 files are missing"),
        ("complete", ""),
    ]


def test_a_file_of_no_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "weights.bin").write_bytes(b"x")
    for name in ("config.json", "weights.bin"):
        with pytest.raises(NotACheckpointError):
            folder_of(str(tmp_path / name))


def test_unfinished_dcp_saves_are_no_safetensors(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(SAMPLES / "hsdp_2x2", tmp_path / "c"))
    (folder / ".metadata").rename(folder / ".metadata.tmp")
    save_file({"a": torch.zeros(2)}, folder / "model.safetensors")
    with pytest.raises(NotACheckpointError, match="has not finished"):
        read_checkpoint(open_storage(str(folder)))


def test_safetensors_over_a_remote_storage() -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    for file in (SAMPLES / "transformers_1").iterdir():
        memory.pipe_file(f"/hub/llama/{file.name}", file.read_bytes())
    storage = open_storage("memory://hub/llama")
    checkpoint = read_checkpoint(storage)
    assert checkpoint.num_tensors == 21
    assert storage.used is not None
    # The index and two headers; what else is counted is the listing.
    assert storage.used.requests <= 4
    assert run_cli("check", SAMPLES / "transformers_1", "--deep").code == 0


@pytest.mark.parametrize("path", ["transformers_1", "transformers_1/config.json", "hf_dcp_whole_1"])
def test_safetensors_over_http_which_lists_nothing(path: str) -> None:
    handler = partial(SimpleHTTPRequestHandler, directory=str(SAMPLES))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/{path}"
        try:
            if path.endswith(".json"):
                with pytest.raises(NotACheckpointError):
                    folder_of(url)
                return
            checkpoint = read_checkpoint(folder_of(url))
            assert (
                checkpoint.num_tensors
                == read_checkpoint(folder_of(str(SAMPLES / path))).num_tensors
            )
        finally:
            server.shutdown()
