import json
import re

import numpy as np
import pytest
from PIL import Image

from m2dit_jax.evaluation.actors import (
    ActorFeatures,
    likeness,
    read_actors,
    read_picture,
    strangers,
)

EAST, SLANTED, NORTH = np.array([1.0, 0.0]), np.array([0.5, 3**0.5 / 2]), np.array([0.0, 1.0])


@pytest.fixture
def write(tmp_path):
    Image.new("RGB", (8, 6), "red").save(tmp_path / "fox.png")

    def written(content):
        path = tmp_path / "actors.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return written


FOX = {
    "name": "fox",
    "references": ["fox.png", {"picture": "fox.png", "box": [0, 0, 0.5, 1]}],
    "seen": [{"scene": 1, "box": [0.1, 0.2, 0.5, 1]}, {"scene": 3}],
}


def test_actors_are_read(write, tmp_path):
    sheet = read_actors(write({"actors": [FOX, {"name": "owl"}]}), scenes=3)
    fox, owl = sheet.actors
    assert fox.seen[0].box == (0.1, 0.2, 0.5, 1) and fox.seen[1].box is None
    assert fox.references[1].picture == str(tmp_path / "fox.png")
    assert fox.references[1].box == (0, 0, 0.5, 1) and owl.seen == ()
    assert sheet.in_scenes(3) == (frozenset(["fox"]), frozenset(), frozenset(["fox"]))


def test_lists_of_names_are_actors_without_boxes(write):
    sheet = read_actors(write([["fox"], ["owl", "fox"]]), scenes=2)
    assert sheet.in_scenes(2) == (frozenset(["fox"]), frozenset(["owl", "fox"]))
    with pytest.raises(ValueError, match="not a list of lists of names"):
        read_actors(write(["fox"]), scenes=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seen": [{"scene": 4}]}, "actors[0].seen[0].scene: found 4, the story has 3"),
        ({"seen": [{"scene": 0}]}, "actors[0].seen[0].scene: found 0, needs a whole number"),
        ({"seen": [{"box": [0, 0, 1, 1]}]}, "actors[0].seen[0].scene: missing"),
        ({"seen": [{"scene": 1, "bx": 1}]}, "unknown key 'bx', did you mean 'box'?"),
        (
            {"seen": [{"scene": 1, "box": [10, 20, 50, 90]}]},
            "actors[0].seen[0].box: found a list of 4, needs left, top, right, bottom as shares",
        ),
        ({"seen": [{"scene": 1, "box": [0.5, 0, 0.5, 1]}]}, "needs left, top, right, bottom"),
        ({"seen": [{"scene": 1, "box": [0, 0, 1]}]}, "needs left, top, right, bottom"),
        ({"seen": [{"scene": 1, "frame": -1}]}, "actors[0].seen[0].frame: found -1"),
        ({"seen": 3}, "actors[0].seen: found 3, needs a list of scenes"),
        ({"references": ["no.png"]}, "references[0].picture: found 'no.png', needs the path of a"),
        ({"references": ["actors.json"]}, "found 'actors.json', needs the path of a picture"),
        ({"name": " "}, "actors[0].name: found ' ', needs a name"),
        ({"colour": "red"}, "unknown key 'colour'"),
    ],
)
def test_what_is_wrong_is_named(write, changes, message):
    with pytest.raises(ValueError, match=re.escape(message)) as found:
        read_actors(write({"actors": [FOX | changes]}), scenes=3)
    assert all("actors.json: " in line for line in str(found.value).splitlines())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"actors": [FOX, FOX]}, "actors[1].name: found 'fox' twice"),
        ({}, "actors: missing, needs a list of actors"),
        ({"actors": {"fox": {}}}, "actors: found a mapping of 1, needs a list of actors"),
        ("3", 'actors.json: needs {"actors": [...]}, or a list of names for each scene'),
        ("{", "actors.json: not readable as JSON"),
    ],
)
def test_a_wrong_file_is_named(write, content, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        read_actors(write(content), scenes=3)


def test_pictures(tmp_path):
    Image.new("RGBA", (3, 2), (9, 8, 7, 255)).save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png")
    assert (
        picture is not None and picture.shape == (2, 3, 3) and picture[0, 0].tolist() == [9, 8, 7]
    )
    assert read_picture(tmp_path) is None


def test_likeness_by_hand():
    fox = ActorFeatures("fox", (1, 1, 2), np.stack([EAST, SLANTED, NORTH]), np.stack([EAST, NORTH]))
    found = likeness(fox)
    # With east 1, 0.5 and 0; with north 0, cos 30 and 1.
    assert found.cross == pytest.approx((1.5 + 3**0.5 / 2 + 1) / 6)
    # Scene 1 with scene 2: east with north 0, slanted with north cos 30; not within scene 1.
    assert found.self_likeness == pytest.approx((0 + 3**0.5 / 2) / 2)
    assert found.seen == 3
    alone = likeness(ActorFeatures("owl", (1,), EAST[None], np.zeros((0, 2))))
    assert alone.cross is None and alone.self_likeness is None


def test_the_floor_is_what_others_reach_by_hand():
    fox = ActorFeatures("fox", (1,), EAST[None], SLANTED[None])
    owl = ActorFeatures("owl", (2,), NORTH[None], np.zeros((0, 2)))
    cross, seen = strangers([fox, owl])
    # Of the owl with the fox's reference; of the two boxes.
    assert cross == pytest.approx([3**0.5 / 2]) and seen == [0]
