import json

import pytest

from m2dit_jax.evaluation.accuracy import METRICS, Score
from m2dit_jax.evaluation.report import Comparison, Report, read_report
from m2dit_jax.utils.files import write_json


def make_report(successes=8, n=10, step=1500):
    scores = {metric: Score.of(successes, n) for metric in METRICS}
    return Report(scores, scores | {"it": Score.of(0, 0)}, seconds=12.5, checkpoint_step=step)


def test_the_json_has_exactly_the_promised_fields(tmp_path):
    write_json(tmp_path / "report.json", make_report().to_json())
    content = json.loads((tmp_path / "report.json").read_text())
    assert set(content) == {"generation", "extension", "seconds", "checkpoint_step", "sampling"}
    for task in ("generation", "extension"):
        assert set(content[task]) == {
            *("background", "colour", "shape", "direction", "it", "same_actor", "leakage")
        }
        for score in content[task].values():
            assert set(score) == {"value", "low", "high", "n"}
    assert content["generation"]["it"]["value"] == 0.8
    assert content["extension"]["it"] == {"value": None, "low": None, "high": None, "n": 0}
    assert (content["seconds"], content["checkpoint_step"]) == (12.5, 1500)


def test_a_report_comes_back_from_its_file(tmp_path):
    write_json(tmp_path / "report.json", make_report().to_json())
    assert read_report(tmp_path / "report.json") == make_report()


@pytest.mark.parametrize("text", ["{}", "[]", "{", '{"generation": {"it": {"value": 1}}}'])
def test_what_is_no_report_is_refused_by_name(tmp_path, text):
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="report.json"):
        read_report(path)


def test_the_text_shows_every_metric_in_per_cent():
    text = make_report().to_text()
    assert "background  80.0 (49.0 to 94.3), n = 10" in text
    assert [line.split()[0] for line in text.splitlines()[1:-1]] == list(METRICS)
    assert "checkpoint of step 1500" in text
    assert "None" not in text


def test_a_comparison_pools_the_seeds():
    comparison = Comparison(
        {
            "full": {0: make_report(8, 10), 1: make_report(1, 10)},
            "symmetric": {0: make_report(10, 10), 1: make_report(10, 10)},
        }
    )
    assert comparison.pooled("full", "generation")["shape"] == Score.of(9, 20)
    content = comparison.to_json()
    assert content["full"]["generation"]["shape"]["value"] == 0.45
    assert content["full"]["seeds"]["1"] == make_report(1, 10).to_json()

    lines = comparison.to_markdown().splitlines()
    assert "| generation | full | symmetric | cases |" in lines
    assert (
        "| shape | 45.0 (25.8 to 65.8); 80.0, 10.0 | 100.0 (83.9 to 100.0); 100.0, 100.0 | 20 |"
        in lines
    )
    assert "| it | -; -, - | -; -, - | 0 |" in lines
