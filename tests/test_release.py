"""What is published: an archive with all sources, a wheel that runs, a page for the index."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tests.conftest import ROOT

#: What lies in a working copy and is no source.
_NO_SOURCE = (
    ".git",
    ".venv",
    "build",
    "dist",
    "*.egg-info",
    "__pycache__",
    ".*_cache",
    ".hypothesis",
)
_BUILD = "from setuptools.build_meta import build_{0} as build; import sys; build(sys.argv[1])"
#: Of each room some tests: those that read samples, golden files, papers and the rules.
_SOME_TESTS = (
    "tests/test_project.py",
    "tests/test_house.py",
    "tests/checkpoint/test_golden.py",
    "tests/checks/test_files.py",
    "tests/cli/test_show.py",
    "tests/tui/test_verify_playback.py",
)


@pytest.fixture(scope="module")
def page() -> ModuleType:
    spec = importlib.util.spec_from_file_location("setup", ROOT / "setup.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_link_of_the_index_page_is_relative(page: ModuleType) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    relative = re.compile(r"\]\((?!https?:|#)[^)]*\)")
    assert relative.search(readme)
    for repository in (None, "https://example.invalid/it"):
        text = page.index_page(readme, repository)
        assert not relative.search(text), repository
        assert ("](https://example.invalid/it/raw/main/docs/tensors.svg)" in text) == bool(
            repository
        )
        assert (
            "[docs/json.md](https://example.invalid/it/blob/main/docs/json.md)" in text
        ) == bool(repository)
        assert "docs/json.md" in text and "pip install" in text


def test_the_address_is_that_of_pyproject(page: ModuleType) -> None:
    given = '[project.urls]\nDocumentation = "https://d"\nRepository = "https://r/"\n'
    assert page.repository_of(given) == "https://r"
    assert page.repository_of("[project]\nname = 'x'\n") is None


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sources' archive, and the wheel made of what it holds, as `python -m build` does it."""
    folder = tmp_path_factory.mktemp("release")
    source, out = folder / "source", folder / "dist"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(*_NO_SOURCE))
    out.mkdir()
    _run([sys.executable, "-c", _BUILD.format("sdist"), str(out)], source)
    (sources,) = out.glob("*.tar.gz")
    with tarfile.open(sources) as archive:
        archive.extractall(folder, filter="data")
    unpacked = folder / sources.name.removesuffix(".tar.gz")
    _run([sys.executable, "-c", _BUILD.format("wheel"), str(out)], unpacked)
    (wheel,) = out.glob("*.whl")
    return unpacked, wheel


@pytest.mark.slow
def test_the_archive_of_the_sources_has_all_of_them(archives: tuple[Path, Path]) -> None:
    unpacked, _ = archives
    for folder in ("inspector", "tests", "sample_ckpts", "docs", "benchmarks", ".ci", ".github"):
        assert _files(unpacked / folder) == _files(ROOT / folder), folder
    for name in ("README.md", "LICENSE", "constraints.txt", "Makefile", "pyproject.toml"):
        assert (unpacked / name).read_bytes() == (ROOT / name).read_bytes(), name


@pytest.mark.slow
def test_tests_pass_in_the_unpacked_archive(archives: tuple[Path, Path]) -> None:
    unpacked, _ = archives
    told = _run([sys.executable, "-m", "pytest", "-q", "-n", "0", *_SOME_TESTS], unpacked)
    assert re.search(r"\d+ passed", told)


@pytest.mark.slow
def test_the_wheel_holds_the_package_alone(archives: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(archives[1]) as wheel:
        names = wheel.namelist()
        (metadata,) = (wheel.read(n) for n in names if n.endswith(".dist-info/METADATA"))
    package = {f"inspector/{name}" for name in _files(ROOT / "inspector")}
    assert {n for n in names if ".dist-info/" not in n} == package
    told = message_from_bytes(metadata)
    assert told["Author"] and told["Description-Content-Type"] == "text/markdown"
    assert not re.search(r"\]\((?!https?:|#)", str(told.get_payload()))


@pytest.mark.slow
@pytest.mark.torchrun
def test_the_wheel_runs_in_an_environment_of_its_own(
    archives: tuple[Path, Path], tmp_path: Path
) -> None:
    environment = tmp_path / "venv"
    _run([sys.executable, "-m", "venv", str(environment)], tmp_path)
    python = environment / "bin" / "python"
    install = ["-m", "pip", "install", "-q", "--no-deps", "--no-index", str(archives[1])]
    _run([str(python), *install], tmp_path)
    # What the package depends on is that of these tests; the package itself is the wheel's.
    (place,) = environment.glob("lib/python*/site-packages")
    (place / "dependencies.pth").write_text(str(Path(np.__file__).parents[1]))
    found = _run([str(python), "-c", "import inspector; print(inspector.__file__)"], tmp_path)
    assert found.startswith(str(place))
    command = str(environment / "bin" / "hsdp-inspect")
    sample = str(archives[0] / "sample_ckpts" / "hsdp_2x2")
    assert "hsdp:2x2" in _run([command, "show", sample], tmp_path)
    assert "sound" in _run([command, "check", "--deep", sample], tmp_path)
    assert _run([command, "verify", sample, "--mesh", "fsdp:2"], tmp_path).startswith("EXACT")


def _files(folder: Path) -> set[str]:
    """What lies in a folder, without what Python and editors leave there."""
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def _run(command: list[str], folder: Path) -> str:
    # Neither the tests' own folder nor their options.
    environ = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTEST_ADDOPTS")}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=folder, env=environ, timeout=600
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout
