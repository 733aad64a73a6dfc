import json

import numpy as np

from m2dit_jax.evaluation.comparison import ArmCost, Comparison, RunScores
from m2dit_jax.evaluation.report import Report
from m2dit_jax.evaluation.scores import Mean, Score
from tests.evaluation.test_report import make_report

COSTS = {"full": ArmCost(4 * 10**9, {3: 8 * 10**15}), "symmetric": ArmCost(10**9, {3: 10**15})}


def make_run(report: Report, step_seconds: float | None = 0.5) -> RunScores:
    return RunScores(report, {"shape": report.generation["shape"]}, step_seconds)


def make_comparison() -> Comparison:
    return Comparison(
        {
            "full": {0: make_run(make_report(8, 10)), 1: make_run(make_report(1, 10), 0.7)},
            "symmetric": {0: make_run(make_report(10, 10), None), 1: make_run(make_report(10, 10))},
        },
        COSTS,
        long_scenes=12,
    )


def test_a_comparison_pools_the_seeds():
    comparison = make_comparison()
    assert comparison.pooled("full", "generation")["shape"] == Score.of(9, 20)
    content = json.loads(json.dumps(comparison.to_json()))
    assert content["full"]["generation"]["shape"]["value"] == 0.45
    assert content["full"]["long"]["shape"]["n"] == 20
    assert content["full"]["full_size_step_flops"] == {"3": 8 * 10**15}
    assert content["full"]["seeds"]["1"]["step_seconds"] == 0.7
    assert make_report(1, 10).to_json().items() <= content["full"]["seeds"]["1"].items()


def test_the_table_has_a_column_for_each_arm():
    lines = make_comparison().to_markdown().splitlines()
    assert "| generation | full | symmetric | cases |" in lines
    shape = "45.0 (25.8 to 65.8); 80.0, 10.0 | 100.0 (83.9 to 100.0); 100.0, 100.0 | 20 |"
    assert lines.count(f"| shape | {shape}") == 3
    assert "| it | -; -, - | -; -, - | 0 |" in lines
    # 20 times 20 to 30, in tens.
    assert (
        "| psnr | 25.0 (23.5 to 26.5); 25.0, 25.0 | 25.0 (23.5 to 26.5); 25.0, 25.0 | 20 |" in lines
    )
    assert "| 12 scenes | full | symmetric | cases |" in lines
    assert "| seconds, median | 0.600 | 0.500 |" in lines
    assert "| GFLOP | 4 (1.000) | 1 (0.250) |" in lines
    assert "| PFLOP a story of 3 scenes, 5B | 8 (1.000) | 1 (0.125) |" in lines


def test_other_worlds_have_other_scores():
    """A comparison knows no score by name."""
    scores = {"pattern": Score.of(1, 2), "depth": Mean.of(np.array([1.0, 3.0]))}
    run = RunScores(Report(scores, scores, 1.0, 1), {}, None)
    table = Comparison({"full": {0: run}}, {"full": COSTS["full"]}, 0).to_markdown()
    assert "| pattern | 50.0 (9.5 to 90.5); 50.0 | 2 |" in table
    assert "| depth | 2.0 (-10.7 to 14.7); 2.0 | 2 |" in table
