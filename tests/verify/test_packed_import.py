"""`--import`: tensors of a class of their own are compared where it is there, else named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp

from tests.conftest import run_process

_MODULE = '''\
import torch


class Packed(torch.Tensor):
    """Shows itself as float32 and stores one byte for each element."""

    @staticmethod
    def __new__(cls, codes):
        made = torch.Tensor._make_wrapper_subclass(cls, codes.shape, dtype=torch.float32)
        made.codes = codes
        return made

    def dequantize(self):
        return self.codes.float() * 0.5

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        name = func.__name__.split(".")[0]
        if name == "is_pinned":
            return False
        if name == "copy_":
            return args[0].copy_(args[1].dequantize())
        me = args[0]
        if name in ("detach", "clone", "_to_copy", "alias"):
            return cls(me.codes.clone() if name == "clone" else me.codes)
        if name == "slice":
            return cls(func(me.codes, *args[1:], **(kwargs or {})))
        raise NotImplementedError(name)

    def __reduce_ex__(self, protocol):
        return torch._tensor._rebuild_from_type_v2, (make, Packed, (self.codes,), {})


def make(codes):
    return Packed(codes)


torch.serialization.add_safe_globals([Packed, make])
'''


@pytest.mark.slow
@pytest.mark.torchrun
def test_a_class_that_is_imported_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules, folder = tmp_path / "modules", tmp_path / "checkpoint"
    modules.mkdir()
    (modules / "packed_of_a_test.py").write_text(_MODULE)
    monkeypatch.syspath_prepend(str(modules))
    import packed_of_a_test as module  # type: ignore[import-not-found]

    pattern = torch.arange(4096).remainder(251).to(torch.uint8).reshape(64, 64)
    state = {"w": module.Packed(pattern), "b": torch.ones(4)}
    dcp.save(state, checkpoint_id=folder, no_dist=True)
    loaded = {"w": torch.empty(64, 64), "b": torch.empty(4)}
    dcp.load(loaded, checkpoint_id=folder, no_dist=True)
    assert torch.equal(loaded["w"], pattern.float() * 0.5)

    def verify(code: int, *options: str) -> dict[str, Any]:
        ran = run_process(
            *("verify", folder, "--mesh", "fsdp:2", "--then", "none", "--device", "cpu"),
            *("--memory", "64MiB", "--json", *options),
            env={"OMP_NUM_THREADS": "1", "PYTHONPATH": str(modules)},
            timeout_s=300,
        )
        assert ran.code == code, ran.out[-2000:] + ran.err
        result: dict[str, Any] = json.loads(ran.out.splitlines()[-1])
        return result

    result = verify(2)
    assert result["verdict"] == "partial"
    (left,) = result["tensors"]["not_verified"]
    assert left["fqn"] == "w"
    assert "packed_of_a_test.Packed" in left["why"]
    assert "--import packed_of_a_test" in left["why"]
    result = verify(0, "--import", "packed_of_a_test")
    assert result["verdict"] == "exact"
    assert result["tensors"]["exact"] == 2
    # One byte of what it packs.
    (file,) = folder.glob("*.distcp")
    data = bytearray(file.read_bytes())
    data[data.index(bytes(range(100, 200)))] ^= 1
    file.write_bytes(data)
    result = verify(1, "--import", "packed_of_a_test")
    assert result["tensors"]["different"] == ["w"]
