import numpy as np
import pytest

from m2dit_jax.data.shapes import Scene, render_scene
from m2dit_jax.stories.gate import CHECKS, SceneToJudge, judge

LATENTS = np.zeros((2, 2, 2, 1), np.float32)
MOVING = render_scene(Scene("square", "red", "navy", "left"), 4, 16)
OTHER = render_scene(Scene("square", "red", "white", "left"), 4, 16)


def frozen(frames):
    return np.repeat(frames[:1], len(frames), 0)


def test_a_good_scene_passes_everything():
    scene = SceneToJudge(LATENTS, MOVING, True, OTHER, 0.9)
    verdict = judge(scene, CHECKS)
    assert verdict.passed
    assert verdict.metrics.keys() == {"motion", "cut", "saturation"}


@pytest.mark.parametrize(
    ("scene", "failure"),
    [
        (SceneToJudge(np.full_like(LATENTS, np.nan), MOVING), "finite: "),
        (SceneToJudge(np.full_like(LATENTS, np.inf), MOVING), "finite: "),
        (SceneToJudge(LATENTS, frozen(MOVING)), "frozen: motion 0.00"),
        (SceneToJudge(LATENTS, MOVING, True, MOVING[:2]), "cut: none to the scene before"),
        (SceneToJudge(LATENTS, OTHER, first_saturation=0.9), "saturation: 0."),
        (SceneToJudge(LATENTS, MOVING, oracle=["colour is red, not blue"]), "oracle: colour is"),
    ],
)
def test_each_check_fails_what_it_is_for_and_only_if_asked(scene, failure):
    verdict = judge(scene, CHECKS)
    assert not verdict.passed
    assert len(verdict.failures) == 1 and verdict.failures[0].startswith(failure)
    asked = failure.split(":")[0]
    assert judge(scene, [asked]).failures == verdict.failures
    others = [check for check in CHECKS if check != asked]
    assert judge(scene, others).passed == (asked != "finite")


def test_what_does_not_apply_is_not_checked():
    single = SceneToJudge(LATENTS, MOVING[:1], wants_cut=True, before=None)
    assert judge(single, CHECKS).passed
    assert judge(SceneToJudge(LATENTS, MOVING, False, MOVING), CHECKS).passed
