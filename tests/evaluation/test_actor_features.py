import numpy as np
import pytest

from m2dit_jax.evaluation.actor_features import actor_scores, describe_actors
from m2dit_jax.evaluation.actors import Actor, ActorFeatures, ActorSheet, Sighting, likeness
from m2dit_jax.evaluation.video_stories import VideoStory
from m2dit_jax.utils.media import VideoError, write_mp4

RED, GREEN, BLUE = (200, 30, 30), (30, 200, 30), (30, 30, 200)


class MeanColour:
    """The mean colour as a feature."""

    name = note = "test"
    side = 128

    def of_frames(self, frames):
        mean = frames.mean((1, 2)).astype(np.float64)
        return mean / np.linalg.norm(mean, axis=1, keepdims=True)

    def of_texts(self, texts):
        return None


def scene(left, right):
    """Four frames; the halves change places after the first."""
    frames = np.zeros((4, 64, 64, 3), np.uint8)
    frames[:, :, :32], frames[:, :, 32:] = left, right
    frames[0] = frames[0, :, ::-1]
    return frames


LEFT, RIGHT = (0.0, 0.0, 0.4, 1.0), (0.6, 0.0, 1.0, 1.0)
SHEET = ActorSheet(
    actors=(
        Actor(
            name="red",
            seen=(
                Sighting(scene=1, box=LEFT),
                Sighting(scene=1),
                Sighting(scene=2, box=RIGHT, frame=0),
            ),
        ),
        Actor(name="nobody", seen=(Sighting(scene=2),)),
        Actor(name="green", seen=(Sighting(scene=2, box=RIGHT),)),
    )
)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    scenes = [scene(RED, BLUE), scene(RED, GREEN)]
    for number, frames in enumerate(scenes, 1):
        write_mp4(folder / f"{number}.mp4", frames, 4)
    write_mp4(folder / "film.mp4", np.concatenate(scenes), 4)
    return folder


@pytest.mark.parametrize("film", [False, True])
def test_boxes_are_cut_out_of_their_frames(videos, film):
    files = ("film.mp4",) if film else ("1.mp4", "2.mp4")
    lengths = (4, 4) if film else None
    story = VideoStory(
        *("s", tuple(videos / name for name in files), ("a", "b"), None, (True,), lengths, SHEET)
    )
    red, green = describe_actors(story, [4, 4], MeanColour())
    assert (red.name, red.scenes, green.scenes) == ("red", (1, 2), (2,))
    assert red.references.shape == (0, 3)
    # Scene 1 in its middle, scene 2 in its first frame, where the halves have changed places.
    assert red.seen.argmax(1).tolist() == [0, 0] and green.seen.argmax(1).tolist() == [1]
    assert red.seen[0] @ red.seen[1] > 0.99 > red.seen[0] @ green.seen[0]


def test_a_frame_that_is_not_there_is_named(videos):
    sheet = ActorSheet(actors=(Actor(name="red", seen=(Sighting(scene=2, box=LEFT, frame=4),)),))
    files = (videos / "1.mp4", videos / "2.mp4")
    story = VideoStory("s", files, ("a", "b"), None, (True,), None, sheet)
    with pytest.raises(VideoError, match="seen in frame 4 of scene 2, which has 4 frames"):
        describe_actors(story, [4, 4], MeanColour())


def test_scores_by_hand():
    east, north = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
    both = np.concatenate([east, north])
    fox = ActorFeatures("fox", (1, 2), both, east)
    owl = ActorFeatures("owl", (1, 2), np.concatenate([north, north]), np.zeros((0, 2)))
    cast = [fox, owl]
    scores = actor_scores([cast], [[likeness(actor) for actor in cast]])
    cross, within = scores["actor cross-similarity"], scores["actor self-similarity"]
    assert cross.value == 0.5 and cross.n == 1 and cross.floor == 0
    assert within.value == 0.5 and within.n == 2 and within.floor == 0.5


def test_what_is_missing_is_said():
    nobody = actor_scores([[]], [[]])
    assert {score.note for score in nobody.values()} == {
        "nobody said where the actors are (boxes in actors.json)"
    }
    alone = ActorFeatures("fox", (1,), np.array([[1.0, 0.0]]), np.zeros((0, 2)))
    scores = actor_scores([[alone]], [[likeness(alone)]])
    assert scores["actor cross-similarity"].note == "no references in actors.json"
    assert scores["actor self-similarity"].note == "no actor has boxes in two scenes"
