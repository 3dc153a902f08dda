"""Which GPUs a job takes: a driver and an nvidia-smi that say what a test wants are asked."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from inspector.checkpoint import open_checkpoint
from inspector.errors import UsageError
from inspector.verify import machine, preflight
from inspector.verify.job.commands import environment
from inspector.verify.machine import Gpu, Interpreter
from inspector.verify.preflight import Preflight, prepare
from inspector.verify.spec import JobSpec
from tests.conftest import SAMPLES

GIB = 1 << 30
#: A driver with as many GPUs as FAKE_GPUS has letters, and FAKE_CUDA_INIT as the code of cuInit.
DRIVER = r"""
#include <stdlib.h>
#include <string.h>
static const char *gpus(void) { const char *s = getenv("FAKE_GPUS"); return s ? s : ""; }
int cuInit(unsigned flags) { const char *s = getenv("FAKE_CUDA_INIT"); return s ? atoi(s) : 0; }
int cuDeviceGetCount(int *n) { *n = (int)strlen(gpus()); return 0; }
int cuDeviceGet(int *device, int i) { *device = i; return 0; }
int cuDeviceGetName(char *name, int size, int device) {
    strcpy(name, "Odd, Name ?");
    name[10] = gpus()[device];
    return 0;
}
int cuDeviceGetUuid_v2(unsigned char *uuid, int device) {
    memset(uuid, gpus()[device], 16);
    return 0;
}
int cuGetErrorName(int code, const char **name) { *name = "CUDA_ERROR_OF_A_TEST"; return 0; }
"""


def uuid(letter: str) -> str:
    byte = f"{ord(letter):02x}"
    return "GPU-" + "-".join(byte * n for n in (4, 2, 2, 2, 6))


Fake = Callable[..., None]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Puts a driver, and an nvidia-smi, in the way of the real ones."""
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("a fake driver takes Linux and a C compiler")
    source = tmp_path / "driver.c"
    source.write_text(DRIVER)
    library = tmp_path / "libcuda.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)

    def put(gpus: str, free: dict[str, int | None], code: int = 0) -> None:
        lines = [f"{uuid(g)}, {'[N/A]' if n is None else n >> 20}" for g, n in free.items()]
        program = tmp_path / "nvidia-smi"
        program.write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in lines))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
        monkeypatch.setenv("FAKE_GPUS", gpus)
        monkeypatch.setenv("FAKE_CUDA_INIT", str(code))

    return put


def test_memory_is_that_of_the_very_gpu(fake: Fake) -> None:
    """CUDA counts the fastest first, nvidia-smi by bus; a slice of a GPU is in no list."""
    fake("bam", {"a": 10 * GIB, "b": 20 * GIB, "c": 30 * GIB})
    assert machine.gpus() == [
        Gpu("Odd, Name b", 20 * GIB, uuid("b")),
        Gpu("Odd, Name a", 10 * GIB, uuid("a")),
        Gpu("Odd, Name m", None, ""),
    ]
    fake("a", {"a": None})
    assert machine.gpus() == [Gpu("Odd, Name a", None, uuid("a"))]


@pytest.mark.parametrize(
    ("gpus", "code", "said"),
    [
        ("ab", 802, "CUDA cannot be initialised here (CUDA_ERROR_OF_A_TEST)"),
        ("", 0, "CUDA finds no GPU here"),
        ("", 100, "CUDA finds no GPU here"),
    ],
)
def test_gpus_that_cuda_does_not_give(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, gpus: str, code: int, said: str
) -> None:
    fake(gpus, {"a": GIB, "b": GIB}, code)
    assert machine.gpus() == []
    assert said in machine.why_no_gpu()
    plan = _prepare(monkeypatch, "fsdp:2")
    assert (plan.spec.device, plan.spec.backend) == ("cpu", "gloo")
    assert [said in note and "run on the CPU" in note for note in plan.notes] == [True]
    for asked in ({"device": "cuda"}, {"backend": "nccl"}):
        with pytest.raises(UsageError) as error:
            _prepare(monkeypatch, "fsdp:2", **asked)
        assert said in str(error.value)


def test_an_nvidia_smi_without_a_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 'GPU-1, 1000'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    # An empty library: as good as none.
    (tmp_path / "libcuda.so.1").touch()
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    assert machine.gpus() == []
    assert "libcuda.so.1 cannot be loaded" in machine.why_no_gpu()


def _prepare(monkeypatch: pytest.MonkeyPatch, mesh: str, **options: Any) -> Preflight:
    found = Interpreter("/python", "2.9", True)
    monkeypatch.setattr(preflight, "examine", lambda python, inspected: found)
    monkeypatch.setattr(machine, "free_memory", lambda: 640 * GIB)
    return prepare(open_checkpoint(str(SAMPLES / "hsdp_2x2")), mesh, **options)


def _with(free: Sequence[int | None]) -> Callable[[], list[Gpu]]:
    names = "abcdefgh"
    gpus = [Gpu("H", n and n * GIB, uuid(g)) for n, g in zip(free, names, strict=False)]
    return lambda: gpus


@pytest.mark.parametrize(
    ("free", "ranks", "used", "rank_gib"),
    [
        ([80, 80, 80, 80], 4, "abcd", 40),
        # Somebody computes on the first: it bounds nobody, since the others are enough.
        ([2, 80, 80], 2, "bc", 40),
        ([80, 1, 80, 70], 3, "acd", 35),
        # Shared: two on each of two are better off than one on each of three and a full one.
        ([80, 2, 80], 4, "ac", 20),
        ([80, 60], 4, "ab", 15),
        ([None, 80], 4, "ab", 20),
    ],
)
def test_one_busy_gpu_does_not_bound_every_rank(
    monkeypatch: pytest.MonkeyPatch,
    free: Sequence[int | None],
    ranks: int,
    used: str,
    rank_gib: int,
) -> None:
    monkeypatch.setattr(machine, "gpus", _with(free))
    spec = _prepare(monkeypatch, f"fsdp:{ranks}").spec
    assert spec.gpus == tuple(map(uuid, used))
    assert spec.memory_bytes == rank_gib * GIB
    assert spec.backend == ("nccl" if len(used) >= ranks else "gloo")
    env = environment(spec, "/import", "mark", {"CUDA_VISIBLE_DEVICES": "0,1"})
    assert env["CUDA_VISIBLE_DEVICES"] == ",".join(map(uuid, used))
    assert JobSpec.from_json(spec.to_json()) == spec


def test_a_busy_gpu_that_is_needed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "gpus", _with([80, 4]))
    plan = _prepare(monkeypatch, "fsdp:2")
    assert plan.spec.memory_bytes == 2 * GIB
    assert any("4.0 GiB free, others 80.0 GiB" in note for note in plan.notes), plan.notes


def test_what_nccl_and_fsdp1_cannot_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "gpus", _with([80, 80]))
    with pytest.raises(UsageError, match="needs a GPU for each rank"):
        _prepare(monkeypatch, "fsdp:4", backend="nccl")
    with pytest.raises(UsageError, match="FSDP1 does not work"):
        _prepare(monkeypatch, "fsdp:4", via="fsdp1")
    assert _prepare(monkeypatch, "fsdp:2", via="fsdp1").spec.backend == "nccl"
    assert _prepare(monkeypatch, "fsdp:2", backend="gloo").spec.backend == "gloo"
    # What will run on other machines is not for this one's GPUs to say.
    monkeypatch.setattr(machine, "gpus", list)
    assert _prepare(monkeypatch, "fsdp:4", device="cuda", is_elsewhere=True).problems == ()


def test_objects_go_over_the_loopback_on_gpus_too() -> None:
    spec = JobSpec("/x", "fsdp:2", device="cuda", backend="nccl")
    assert environment(spec, "/import", "mark", {}).get("GLOO_SOCKET_IFNAME") == "lo"
    assert "CUDA_VISIBLE_DEVICES" not in environment(spec, "/import", "mark", {})


def test_what_another_launcher_set_is_not_this_jobs() -> None:
    foreign = {"PET_NNODES": "7", "TORCHELASTIC_RUN_ID": "x", "RANK": "3", "MASTER_PORT": "1"}
    env = environment(JobSpec("/x", "fsdp:2"), "/import", "mark", {**foreign, "NCCL_DEBUG": "INFO"})
    assert not foreign.keys() & env.keys()
    assert env["NCCL_DEBUG"] == "INFO"
