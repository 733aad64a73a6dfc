import json

import numpy as np
import pytest

from m2dit_jax.evaluation.fidelity import FIDELITY
from m2dit_jax.evaluation.report import Report, read_report
from m2dit_jax.evaluation.scores import Mean, Score
from m2dit_jax.evaluation.shapes_scores import METRICS, SCORES
from m2dit_jax.utils.files import write_json


def make_report(successes=8, n=10, step=1500):
    clean = Mean.of(np.linspace(20, 30, n))
    scores = {m: Score.of(successes, n) for m in METRICS} | dict.fromkeys(FIDELITY, clean)
    return Report(scores, scores | {"it": Score.of(0, 0)}, seconds=12.5, checkpoint_step=step)


def test_the_json_has_exactly_the_promised_fields(tmp_path):
    write_json(tmp_path / "report.json", make_report().to_json())
    content = json.loads((tmp_path / "report.json").read_text())
    assert set(content) == {"generation", "extension", "seconds", "checkpoint_step", "sampling"}
    for task in ("generation", "extension"):
        assert set(content[task]) == {
            *("background", "colour", "shape", "direction", "it", "same_actor", "leakage"),
            *("psnr", "background_rms", "actor_rms"),
        }
        for score in content[task].values():
            assert set(score) == {"value", "low", "high", "n"}
    assert content["generation"]["it"]["value"] == 0.8
    assert content["extension"]["it"] == {"value": None, "low": None, "high": None, "n": 0}
    assert (content["seconds"], content["checkpoint_step"]) == (12.5, 1500)


def test_a_report_comes_back_from_its_file(tmp_path):
    write_json(tmp_path / "report.json", make_report().to_json())
    assert read_report(tmp_path / "report.json") == make_report()


def test_a_report_of_an_older_version_has_no_fidelity(tmp_path):
    content = make_report().to_json()
    for task in ("generation", "extension"):
        for name in FIDELITY:
            del content[task][name]
    write_json(tmp_path / "report.json", content)
    report = read_report(tmp_path / "report.json")
    assert report.generation["shape"] == Score.of(8, 10)
    assert report.generation["psnr"] == Mean(None, None, None, 0)


@pytest.mark.parametrize("text", ["{}", "[]", "{", '{"generation": {"it": {"value": 1}}}'])
def test_what_is_no_report_is_refused_by_name(tmp_path, text):
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="report.json"):
        read_report(path)


@pytest.mark.parametrize("task", ["generation", "extension"])
def test_a_report_that_lacks_a_metric_is_refused(tmp_path, task):
    content = make_report().to_json()
    del content[task]["shape"]
    write_json(tmp_path / "report.json", content)
    with pytest.raises(ValueError, match="report.json: not the report of an evaluation"):
        read_report(tmp_path / "report.json")


def test_the_text_shows_every_metric_in_per_cent():
    text = make_report().to_text()
    assert "background      80.0 (49.0 to 94.3), n = 10" in text
    assert "psnr            25.0 (22.6 to 27.4), n = 10" in text
    assert [line.split()[0] for line in text.splitlines()[1:-1]] == list(SCORES)
    assert "checkpoint of step 1500" in text
    assert "None" not in text
