"""The page of what fits on which card as Markdown, from the plans that are kept in docs/plans/.

`python -m m2dit_jax.tools.planning.docs > docs/cards.md`, in a checkout, writes it anew. A plan is
what `m2dit plan --json=docs/plans/NAME.json` wrote; a file more is a row more.
"""

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from m2dit_jax.tools.planning.report import MARGIN
from m2dit_jax.tools.planning.stages import DENOISING
from m2dit_jax.utils.chips import GIB

PLANS = Path(__file__).parents[3] / "docs" / "plans"
_MODELS = {"finetune_5b": "5B", "finetune_2b": "2B"}
_INTRODUCTION = f"""# What fits on which card

Written by `python -m m2dit_jax.tools.planning.docs` from the files in `docs/plans/`, each of which
is what `m2dit plan --json` wrote, with its command. The real programs were compiled for cards that
were not there: **nothing was run or timed on one.** [Memory and time](memory.md) says how `plan`
counts, and what the policies do.

GiB of a device, as the compiler allocates them; a program fits where {MARGIN:.0%} stays free. A
step takes at least as long as its operations (compute), its traffic with the card's memory, and
what comes from the host's (transfer), each at the data sheet's speed: real steps take longer.
"""
_SAMPLING = """
## Sampling

Three scenes of 49 frames of 480x720, a denoising step with guidance of one story, every network of
the run in its turn. `--memory=auto` took the first way that fits, from the quickest on:
"""
_TRAINING = """
## Training adapters

LoRA of rank 64 on attention, AdamW, remat `full`, one story a step; the base in the form that
`config.train.lora.base_dtype` names ([Adapters](lora.md#a-base-in-8-bits-or-4)):
"""


@dataclass(frozen=True)
class KeptPlan:
    """A plan as `plan --json` writes it, with its command."""

    name: str
    content: Mapping[str, Any]

    @cached_property
    def flags(self) -> dict[str, str]:
        """The flags of its command by name, without the dashes."""
        words = shlex.split(self.content["command"])
        pairs = (word.removeprefix("--").partition("=") for word in words if word.startswith("--"))
        return {name: value for name, _, value in pairs}

    @property
    def model(self) -> str:
        """The model's size, by the config."""
        return _MODELS[self.flags["config"]]

    @property
    def weights(self) -> str:
        """The form of the weights: of sampling all, of training those that stay."""
        if self.content["mode"] == "sample":
            return self.flags.get("quantize", "bfloat16")
        return self.flags["config.train.lora.base_dtype"]

    @property
    def scenes(self) -> int:
        """Scenes of a story."""
        return int(self.flags.get("config.data.scenes", 3))

    @property
    def memory(self) -> int:
        """Bytes of the device."""
        return self.content["hbm_bytes_per_device"]

    @property
    def order(self) -> tuple[Any, ...]:
        """The place of its row: smaller cards before larger ones, and what takes most first."""
        return self.model, self.scenes, self.memory, self.content["chip"], self.weights


def read_plans(folder: Path = PLANS) -> list[KeptPlan]:
    """All plans of a folder, in the order of their rows."""
    files = sorted(folder.glob("*.json"))
    plans = [KeptPlan(file.stem, json.loads(file.read_text(encoding="utf-8"))) for file in files]
    return sorted(plans, key=lambda plan: plan.order)


def to_markdown(plans: Sequence[KeptPlan]) -> str:
    """The page, with a table of sampling and one of training."""
    by_mode = {
        mode: [plan for plan in plans if plan.content["mode"] == mode]
        for mode in ("sample", "train")
    }
    return "\n".join(
        [
            _INTRODUCTION,
            _said(plans),
            _SAMPLING,
            *_table(_SAMPLING_HEAD, map(_sampling_row, by_mode["sample"])),
            _TRAINING,
            *_table(_TRAINING_HEAD, map(_training_row, by_mode["train"])),
            "",
        ]
    )


_SAMPLING_HEAD = (
    "model",
    "weights",
    "card",
    "memory",
    "fits by",
    "denoising step",
    "text encoder",
    "decoding",
    "from the host, a step",
    "a step takes at least",
)
_TRAINING_HEAD = (
    "model",
    "base",
    "scenes",
    "card",
    "memory",
    "a step",
    "of it the base",
    "activations",
    "fits",
    "a step takes at least",
)


def _sampling_row(plan: KeptPlan) -> list[str]:
    content = plan.content
    way = content["memory"].rpartition(", weights ")[0]
    stages = {_kind(name): (name, stage) for name, stage in content["stages"].items()}
    return [
        plan.model,
        plan.weights,
        content["chip"],
        _gib(plan.memory),
        way if content["fits"] else f"does not ({way})",
        *(_stage(*stages[kind]) for kind in (DENOISING, "text encoder", "decoding")),
        _from_host(content),
        _least_time(content),
    ]


def _training_row(plan: KeptPlan) -> list[str]:
    content, parts = plan.content, plan.content["memory_parts"]
    return [
        plan.model,
        plan.weights,
        str(plan.scenes),
        content["chip"],
        _gib(plan.memory),
        *map(_gib, (content["peak_bytes_per_device"], parts["base"], parts["activations"])),
        "yes" if content["fits"] else "no",
        _least_time(content),
    ]


def _kind(stage: str) -> str:
    """The stage without where or how it is done."""
    return stage.partition(" on the ")[0].partition(" in ")[0]


def _stage(name: str, stage: Mapping[str, int]) -> str:
    how = name.removeprefix(_kind(name))
    return f"{_gib(stage['peak_bytes'])}{how}" if stage["peak_bytes"] else how.strip()


def _from_host(content: Mapping[str, Any]) -> str:
    if not content["streamed_bytes"]:
        return ""
    seconds = content["transfer_seconds"]
    return f"{_gib(content['streamed_bytes'])}" + ("" if seconds is None else f", {seconds:.2g} s")


def _least_time(content: Mapping[str, Any]) -> str:
    if content["roofline_seconds"] is None:  # it was too large to compile
        return ""
    bounds = content["roofline_parts"] | {"transfer": content["transfer_seconds"] or 0.0}
    slowest = max(bounds, key=bounds.__getitem__)
    return f"{bounds[slowest]:.3g} s ({slowest})"


def _said(plans: Sequence[KeptPlan]) -> str:
    """Dates and versions, each once."""
    dates = sorted({plan.content["date"] for plan in plans})
    versions = {f"{n} {v}" for plan in plans for n, v in plan.content["versions"].items()}
    return f"Compiled {' and '.join(dates)} with {', '.join(sorted(versions))}."


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def _gib(size: int) -> str:
    return f"{size / GIB:.1f}"


if __name__ == "__main__":
    print(to_markdown(read_plans()), end="")
