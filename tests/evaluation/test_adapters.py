import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from m2dit_jax.config.recipe import build_recipe
from m2dit_jax.diffusion.options import SamplingOptions
from m2dit_jax.evaluation import adapters
from m2dit_jax.evaluation.adapters import ANY, ARMS, open_base, score_adapters
from m2dit_jax.weights.mapping import flatten
from tests.engines import random_engine, random_params


@pytest.fixture
def engines(tiny_config):
    base = random_engine(tiny_config, scale=0.1)
    tiny_config.data.actor = "white circle"
    return base, random_engine(tiny_config, scale=0.2)


def test_old_and_new_actors_are_scored_without_and_with_adapters(engines):
    report = score_adapters(*engines, 3, 0, SamplingOptions(steps=1, guidance_scale=1.0))
    assert list(report.scores) == [ANY, "white circle"]
    assert all(report.scores[actor][arm]["shape"].n for actor in report.scores for arm in ARMS)
    # No ideal scene has a white actor, so that there is none to hold it against.
    assert (
        report.scores["white circle"][ARMS[0]]["psnr"].n
        == 0
        < report.scores[ANY][ARMS[0]]["psnr"].n
    )
    lines = report.to_text().splitlines()
    assert lines[0].split() == ["any", "actor", "white", "circle"]
    assert len({len(line) for line in lines[:-1]}) == 1 and "3 held-out" in lines[-1]
    content = json.loads(json.dumps(report.to_json()))
    assert set(content["scores"][ANY]) == set(ARMS)
    titles = [title for title, _, _ in report.shown]
    assert titles[:2] == [f"{ANY}, {ARMS[0]}"] * 2 and len(titles) == 8
    assert all("white circle" in captions[0] for _, _, captions in report.shown[4:])
    assert report.sheet().height > 0


def test_the_base_makes_stories_of_the_runs_size(tiny_config, monkeypatch):
    params = random_params(build_recipe(tiny_config))
    tiny_config.data.scenes, tiny_config.sample.steps = 3, 4
    adapted = random_engine(tiny_config)
    weights = SimpleNamespace(load=lambda: params)
    monkeypatch.setattr(adapters, "base_weights", lambda run: weights)
    base = open_base(adapted, Path("run"), None, None)
    assert base.trained == adapted.trained and base.defaults == adapted.defaults
    found, own = (flatten(x) for x in (base.networks.get("transformer").params, params))
    assert all(np.array_equal(x, own[f"transformer.{name}"]) for name, x in found.items())


def test_adapters_of_no_new_actor_have_two_columns(engines):
    report = score_adapters(engines[0], engines[0], 1, 0, SamplingOptions(steps=1))
    assert list(report.scores) == [ANY]
