import json

import pytest

from m2dit_jax.diffusion.options import SamplingOptions
from m2dit_jax.evaluation.pictures import ARMS, score_pictures
from tests.engines import random_engine


def test_the_same_stories_are_scored_with_and_without_their_picture(tiny_config):
    engine = random_engine(tiny_config, scale=0.1)
    options = SamplingOptions(steps=1, guidance_scale=1.0)
    report = score_pictures(engine, 3, 0, options, batch_size=2)
    scenes = tiny_config.data.scenes
    assert [report.scores[arm]["it"].n for arm in ARMS] == [3 * scenes] * 3
    lines = report.to_text().splitlines()
    assert lines[0].split("  ")[-1].strip() == "another picture" and "3 held-out" in lines[-1]
    content = json.loads(json.dumps(report.to_json()))
    assert content["stories"] == 3 and set(ARMS) <= content.keys()
    video, captions = report.shown[0]
    assert len(video) == len(captions) == scenes + 1 and captions[0] == "it"
    assert report.sheet().height > 0


def test_a_model_of_no_world_is_refused(tiny_config):
    engine = random_engine(tiny_config)
    engine.facts = type(engine.facts)(**(vars(engine.facts) | {"trained": None}))
    with pytest.raises(ValueError, match="needs a run on"):
        score_pictures(engine, 1, 0, SamplingOptions())
