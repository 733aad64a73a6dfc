import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from m2dit_jax.data.storyworld.oracle import Reading, find_misfits, read_scene
from m2dit_jax.data.storyworld.stories import StoryworldSource

SOURCE = StoryworldSource(5, [(8, 4, 8)], 32, True, 40)


def scenes(first: int, last: int):
    for index in range(first, last):
        story = SOURCE[index]
        for video, scene in zip(story["video"], story["scenes"], strict=True):
            yield video[: scene.frames], scene


def count_wrong(reading: Reading, scene) -> int:
    read, real = reading.actors, scene.actors
    if len(read) != len(real):
        return 1
    names = ("body", "colour", "part", "pattern", "second")
    return sum(
        getattr(reading, name) != getattr(scene, name)
        for name in ("place", "arrangement", "light", "motion")
    ) + sum(getattr(r, n) != getattr(a, n) for r, a in zip(read, real, strict=True) for n in names)


def test_real_scenes_are_read_without_a_mistake() -> None:
    assert sum(count_wrong(read_scene(video), scene) for video, scene in scenes(0, 4)) == 0


def test_noise_and_blur_are_borne() -> None:
    rng, wrong = np.random.default_rng(0), 0
    for video, scene in scenes(4, 7):
        soft = gaussian_filter(video.astype(float), (0, 0.4, 0.4, 0), mode="nearest")
        noisy = soft + 8 * rng.normal(size=soft.shape)
        wrong += count_wrong(read_scene(np.rint(noisy).clip(0, 255).astype(np.uint8)), scene)
    assert wrong <= 1  # of some 80


@pytest.mark.parametrize("kind", ["grey", "noise"])
def test_nothing_is_read_where_nothing_is(kind: str) -> None:
    video = np.full((8, 32, 32, 3), 128, np.uint8)
    if kind == "noise":
        video = np.random.default_rng(0).integers(0, 256, video.shape, dtype=np.uint8)
    reading = read_scene(video)
    assert (reading.place, reading.arrangement, reading.light, reading.motion) == (None,) * 4
    assert all(actor.body is None and actor.look is None for actor in reading.actors)


def test_a_frozen_scene_has_no_motion() -> None:
    video, scene = next((v, s) for v, s in scenes(0, 6) if s.motion in ("left", "right"))
    frozen = np.repeat(video[:1], len(video), axis=0)
    reading = read_scene(frozen)
    assert reading.motion is None and reading.place == scene.place


def test_an_actor_that_melts_is_not_recognised() -> None:
    video, scene = next(scenes(0, 1))
    melted = gaussian_filter(video.astype(float), (0, 3, 3, 0), mode="nearest").astype(np.uint8)
    assert count_wrong(read_scene(melted), scene) > 0


def test_misfits_are_named() -> None:
    story = SOURCE[0]
    video, prompts = story["video"][0][:8], story["captions"]
    assert find_misfits(prompts, story["global_prompt"], 0, video) == []
    other = [p.replace(story["scenes"][0].place, "x") for p in prompts]
    assert find_misfits(other, "what the caption asks nobody knows", 0, video) == []
    asked = "a red ghost with a hat turns in the city"
    misfits = find_misfits([asked], "in fog", 0, video)
    assert any(line.startswith("place is") for line in misfits)


@pytest.mark.parametrize("shape", [(2, 32, 32, 3), (8, 32, 24, 3), (8, 32, 32)])
def test_other_arrays_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="needs uint8 frames"):
        read_scene(np.zeros(shape, np.uint8))
