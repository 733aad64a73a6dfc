"""Configs and storyboards by path and by name, in a checkout and elsewhere."""

from pathlib import Path

import pytest

from m2dit_jax.config import files
from m2dit_jax.config.files import find_config, find_storyboard, named_config, with_named_config

ROOT = Path(__file__).parents[2]


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_name_is_found_from_any_folder(elsewhere):
    assert find_config("base").samefile(ROOT / "configs" / "base.py")
    assert find_storyboard("lone_actor").samefile(ROOT / "configs/storyboards/lone_actor.yaml")


def test_a_file_comes_before_a_name(elsewhere):
    (elsewhere / "base").touch()
    (elsewhere / "shapes").mkdir()
    assert find_config("base") == Path("base")
    assert find_config("shapes").samefile(ROOT / "configs" / "shapes.py")


@pytest.mark.parametrize("name", ["shpaes", "configs/shpaes.py", "shapes.py", "configs/shapes.py"])
def test_a_mistyped_name_is_answered_with_the_nearest(name, elsewhere):
    message = f"--config={name}: no such file.*; the nearest is shapes, and there are base, .*"
    with pytest.raises(ValueError, match=message):
        find_config(name)
    with pytest.raises(ValueError, match="the nearest is lone_actor, and there are lone_actor, "):
        find_storyboard("lone_acter.yaml")


def test_what_follows_a_colon_is_kept(elsewhere):
    assert named_config("base:tiny") == f"{files.SHIPPED / 'base.py'}:tiny"
    (elsewhere / "own.py").touch()
    assert named_config("own.py:a:b") == "own.py:a:b"


def test_a_colon_in_the_path_is_none_of_ml_collections(elsewhere, monkeypatch):
    """Windows' drives have one."""
    folder = elsewhere / "C:"
    folder.mkdir()
    (folder / "own.py").touch()
    monkeypatch.chdir(folder)
    assert named_config(str(folder / "own.py")) == "own.py"


def test_only_the_value_of_config_is_replaced(elsewhere):
    base = str(files.SHIPPED / "base.py")
    others = ["--config.seed=1", "base", "--workdir=base", "--config_x=base"]
    assert with_named_config(["--config=base", *others]) == [f"--config={base}", *others]
    assert with_named_config([*others, "--config", "base"]) == [*others, "--config", base]
    assert with_named_config(["--config"]) == ["--config"]
