"""The fuzz command: what it makes is the same for a seed, and what it finds is kept."""

from random import Random

import pytest

from m2dit_jax.tools.fuzz.__main__ import main
from m2dit_jax.tools.fuzz.kinds import KINDS, make_input
from m2dit_jax.tools.fuzz.mutate import dump_json, odd_bytes, odd_tree
from m2dit_jax.tools.fuzz.worker import ACCEPTED, FAILURES, HANG, REFUSED, Reader, outcome_of

CHEAP = ("storyboards", "manifests", "configs")


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    for kind in CHEAP:
        KINDS[kind].make(folder / kind)
    return folder


@pytest.mark.parametrize("kind", CHEAP)
def test_good_inputs_are_accepted(good, kind):
    for folder in (good / kind).iterdir():
        assert outcome_of(kind, folder).name == ACCEPTED


@pytest.mark.parametrize("kind", CHEAP)
def test_damaged_inputs_are_accepted_or_refused_by_name(good, kind, tmp_path):
    names = []
    for number in range(40):
        folder = tmp_path / str(number)
        make_input(kind, good / kind, number, 3, folder)
        outcome = outcome_of(kind, folder)
        assert outcome.name not in FAILURES, outcome.text
        names.append(outcome.name)
    assert REFUSED in names


def test_a_seed_makes_the_same_inputs(good, tmp_path):
    kind = "manifests"
    for number in range(15):
        folders = [tmp_path / f"{number}{which}" for which in "ab"]
        for folder in folders:
            make_input(kind, good / kind, number, 7, folder)
        one, other = (
            {p.name: p.read_bytes() for p in sorted(f.iterdir()) if p.is_file()} for f in folders
        )
        assert one == other


def test_damage_changes_something():
    tree = {"a": 1, "b": [1, {"c": "x"}]}
    texts = {dump_json(odd_tree(tree, Random(number))) for number in range(50)}
    assert len(texts) > 30 and tree == {"a": 1, "b": [1, {"c": "x"}]}
    assert len({odd_bytes(bytes(100), Random(number)) for number in range(50)}) > 30


def test_an_unnamed_error_is_a_failure(good, tmp_path, monkeypatch):
    cases = ((ValueError("no"), "no file in the message"), (TypeError(), FAILURES[0]))
    for error, expected in cases:

        def fail(folder, error=error):
            raise error

        kind = KINDS["configs"]
        monkeypatch.setitem(KINDS, "configs", type(kind)(1, kind.make, kind.damage, fail))
        assert outcome_of("configs", tmp_path).name == expected


def test_a_hang_is_counted_and_the_next_input_is_read(good):
    folder = next((good / "manifests").iterdir())
    reader = Reader(good, ["manifests"], seconds=60.0, growth=2 * 10**9)
    try:
        assert reader.read("manifests", folder).name == ACCEPTED
        reader._seconds = 0.0
        assert reader.read("manifests", folder).name == HANG
        reader._seconds = 60.0
        assert reader.read("manifests", folder).name == ACCEPTED
    finally:
        reader.close()


def test_unknown_kinds_and_absurd_numbers_are_refused(capsys):
    assert main(["--kinds=pictures"]) == 2
    assert "no 'pictures'; there are storyboards,manifests" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--inputs=0"])
