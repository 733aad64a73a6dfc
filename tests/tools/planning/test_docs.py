import json
from pathlib import Path

import pytest

from m2dit_jax.config.files import find_config
from m2dit_jax.tools.planning.docs import PLANS, KeptPlan, read_plans, to_markdown
from m2dit_jax.tools.planning.topologies import split_name

PAGE = Path(__file__).parents[3] / "docs" / "cards.md"
SAMPLE = {
    "command": "m2dit plan --config=finetune_5b --topology=rtx3060:1 --mode=sample --quantize=int8",
    "date": "2026-01-02",
    "versions": {"jax": "1.2"},
    "mode": "sample",
    "chip": "A card",
    "fits": True,
    "stages": {
        "denoising step": {"peak_bytes": 2**31},
        "text encoder on the CPU": {"peak_bytes": 0},
        "decoding in strips (estimated)": {"peak_bytes": 2**30},
    },
    "memory": "stream, branches of guidance in turn, weights int8",
    "streamed_bytes": 3 * 2**30,
    "transfer_seconds": 2.5,
    "hbm_bytes_per_device": 12 * 2**30,
    "roofline_seconds": 2.0,
    "roofline_parts": {"compute": 2.0, "memory": 1.0, "network": 0.0},
}
TRAIN = SAMPLE | {
    "command": "m2dit plan --config=finetune_5b --config.data.scenes=1 "
    "--config.train.lora.base_dtype=nf4",
    "mode": "train",
    "fits": False,
    "peak_bytes_per_device": 2**33,
    "memory_parts": {"base": 2**32, "activations": 2**31},
    "transfer_seconds": 0.0,
    "roofline_seconds": None,
}


def test_the_page_is_up_to_date():
    written = to_markdown(read_plans())
    command = "python -m m2dit_jax.tools.planning.docs > docs/cards.md"
    assert PAGE.read_text(encoding="utf-8") == written, command


def test_rows_say_what_the_plans_do():
    page = to_markdown([KeptPlan("a", SAMPLE), KeptPlan("b", TRAIN)])
    assert (
        "| 5B | int8 | A card | 12.0 | stream, branches of guidance in turn | 2.0 | on the CPU | "
        "1.0 in strips (estimated) | 3.0, 2.5 s | 2.5 s (transfer) |" in page
    )
    assert "| 5B | nf4 | 1 | A card | 12.0 | 8.0 | 4.0 | 2.0 | no |  |" in page
    assert "Compiled 2026-01-02 with jax 1.2." in page


@pytest.mark.parametrize("plan", read_plans(), ids=lambda plan: plan.name)
def test_a_plan_is_of_a_machine_and_a_config_that_exist(plan):
    split_name(plan.content["topology"])
    assert plan.flags["topology"] == plan.content["topology"]
    assert find_config(plan.flags["config"]) and plan.model and plan.weights


def test_plans_are_small_files():
    for file in PLANS.glob("*.json"):
        assert file.stat().st_size < 5000 and json.loads(file.read_text(encoding="utf-8"))
