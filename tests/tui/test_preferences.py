"""What the screen remembers of its user, and what it leaves alone of what they wrote."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from inspector.tui.preferences import Memory, Preferences, config_path, remembered
from tests.conftest import SAMPLES, run_cli


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    path = tmp_path / "config" / "hsdp-inspect" / "config.json"
    assert config_path() == path
    return path


def chosen(**words: str) -> None:
    memory = remembered()
    memory.take(**words)
    memory.write()


def test_what_was_chosen_is_there_the_next_time(config: Path) -> None:
    assert Preferences.read() == Preferences()
    remembered().write()
    assert not config.exists()  # Nothing was chosen.
    chosen(theme="light")
    chosen(mesh="hsdp:2x4", view="files")
    assert Preferences.read() == Preferences("light", "files", "hsdp:2x4")
    assert os.listdir(config.parent) == ["config.json"]
    assert config.parent.stat().st_mode & 0o077 == 0


def test_a_theme_that_was_given_is_of_this_time_alone(config: Path) -> None:
    chosen(theme="light")
    memory = remembered("nord")
    assert memory.now.theme == "nord"
    memory.take(view="files")
    memory.write()
    assert Preferences.read() == Preferences("light", "files")


def test_what_a_person_wrote_there_stays(config: Path, tmp_path: Path) -> None:
    config.parent.mkdir(parents=True)
    kept = tmp_path / "dotfiles.json"
    kept.write_text('{"mine": [1], "theme": "dark"}')
    config.symlink_to(kept)
    chosen(view="plan")
    assert config.is_symlink() and '"mine"' in kept.read_text() and '"plan"' in kept.read_text()
    kept.write_text('{"theme": "light",}  // one comma too many')
    before = kept.read_text()
    assert Preferences.read() == Preferences()
    chosen(view="files")
    assert kept.read_text() == before


@pytest.mark.parametrize("held", ["[]", "7", "", '{"theme": 7, "view": ["x"], "mesh": "a\\u001b"}'])
def test_what_makes_no_sense_there_is_passed_over(config: Path, held: str) -> None:
    config.parent.mkdir(parents=True)
    config.write_text(held)
    assert Preferences.read() == Preferences()


def test_a_place_that_cannot_be_read_or_written_holds_nobody_up(config: Path) -> None:
    config.parent.parent.mkdir(parents=True)
    config.parent.write_text("a file where the folder should be")
    assert Preferences.read() == Preferences()
    chosen(view="files")
    config.parent.unlink()
    config.parent.mkdir()
    os.mkfifo(config)
    assert Preferences.read() == Preferences()
    chosen(view="files")


def test_what_is_nested_too_deep_to_be_written_stays(config: Path) -> None:
    """Python 3.12 reads what it cannot write again."""
    config.parent.mkdir(parents=True)
    for depth in (990, 1200, 20_000):
        config.write_text(held := '{"mine": ' + "[" * depth + "]" * depth + "}")
        chosen(view="files")
        assert config.read_text() == held or Preferences.read().view == "files"
        assert os.listdir(config.parent) == ["config.json"]


def test_what_is_not_to_be_kept_is_not_written(config: Path) -> None:
    memory = Memory()
    memory.take(theme="light")
    memory.write()
    assert not config.exists()


def test_a_theme_that_there_is_not_is_refused() -> None:
    ran = run_cli("--tui", "--theme", "purple", SAMPLES / "hsdp_2x2")
    assert ran.code == 2 and "no theme purple" in ran.err and "dark, light" in ran.err
