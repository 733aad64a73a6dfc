import jax
import numpy as np

from m2dit_jax.stories.noise import (
    clip_noise,
    given_noise,
    pad_frames,
    scene_key,
    scene_seed,
    start_noise,
    step_noise,
)

SIZE = (2, 2, 1)


def test_a_scene_draws_by_its_own_seed_or_the_storys_and_its_place():
    assert scene_seed(7, 2, None) == [7, 2]
    assert scene_seed(7, 2, 5) == [5]


def test_every_draw_is_another():
    key = scene_key([7, 2])
    draws = [
        clip_noise(key, (1, *SIZE)),
        given_noise(key, (1, *SIZE)),
        start_noise([key], [1], SIZE)[0, 0],
        *(step_noise([key], step, [1], SIZE)[0, 0] for step in (0, 1)),
        *(start_noise([scene_key([7, 2], n)], [1], SIZE)[0, 0] for n in (1, 2)),
        *(start_noise([scene_key([7, 2], 0, n)], [1], SIZE)[0, 0] for n in (1, 2)),
        *(start_noise([scene_key([7], 0, n)], [1], SIZE)[0, 0] for n in (1, 2)),
        *(start_noise([scene_key(seed)], [1], SIZE)[0, 0] for seed in ([7, 3], [2], [8, 2])),
    ]
    assert len({np.asarray(draw).tobytes() for draw in draws}) == len(draws)


def test_a_scenes_noise_does_not_depend_on_the_others():
    keys = [scene_key([0, scene]) for scene in range(3)]
    together = start_noise(keys, [2, 3, 1], SIZE)
    alone = start_noise(keys[1:2], [3], SIZE)
    np.testing.assert_array_equal(together[0, 1], alone[0, 0])
    assert together.shape == (1, 3, 3, *SIZE)
    assert not together[0, 2, 1:].any() and together[0, 2, 0].all()


def test_padding_is_zero():
    scenes = [np.ones((1, *SIZE), np.float32), np.ones((3, *SIZE), np.float32)]
    assert isinstance(pad_frames(scenes), jax.Array)
    np.testing.assert_array_equal(pad_frames(scenes)[0, :, :, 0, 0, 0], [[1, 0, 0], [1, 1, 1]])
