import numpy as np

from m2dit_jax.data.storyworld.fitting import fit_scene
from m2dit_jax.data.storyworld.places import draw_places
from m2dit_jax.data.storyworld.stories import StoryworldSource


def test_the_nearest_scene_is_the_real_one() -> None:
    source = StoryworldSource(2, [(8,)], 32, False, 3)
    for index in range(3):
        story = source[index]
        [scene], [video] = story["scenes"], story["video"]
        fitted = fit_scene(video, refinements=6)
        assert tuple(each.actor for each in fitted.actors) == scene.actors
        error = fitted.render(8, 32).astype(float) - video
        assert np.sqrt((error**2).mean()) < 1.5


def test_an_empty_place_has_no_actors() -> None:
    place = np.rint(draw_places(32)[2, 3]).astype(np.uint8)
    fitted = fit_scene(np.repeat(place[None], 8, axis=0))
    assert fitted.actors == ()
    assert (fitted.background.place, fitted.background.arrangement) == ("city", 3)
    np.testing.assert_array_equal(fitted.render(8, 32)[0], place)
