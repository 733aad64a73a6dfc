"""Samplers, numbers of steps and savings beside each other, on the same stories and noise."""

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from m2dit_jax.diffusion.options import SamplingOptions
from m2dit_jax.diffusion.samplers import SAMPLERS
from m2dit_jax.evaluation.accuracy import StoryBatch, evaluate_stories, global_prompts, world_of
from m2dit_jax.evaluation.report import Scores, scores_to_json
from m2dit_jax.evaluation.sampling_cost import Cost, cost_of
from m2dit_jax.pipeline.engine import Engine

STEPS = (10, 20, 50)
MANY_STEPS = 200  # of DDIM, which other samplers that draw no noise are held against
TIMED_RUNS = 9  # of one story, the full run and the saving one in turn
TASKS = ("generation", "extension")

_Batches = dict[str, list[StoryBatch]]  # by task


@dataclass(frozen=True)
class Row:
    """One way to sample; `time_ratio` is its time for one story over the full run's, None if it was
    not timed."""

    name: str
    options: SamplingOptions
    scores: dict[str, Scores]
    costs: dict[str, Cost]
    time_ratio: float | None


@dataclass(frozen=True)
class SamplingTables:
    """`samplers` are the full runs by sampler and steps, `savings` what the options change."""

    samplers: Sequence[Row]
    savings: Sequence[Row]
    stories: int

    def to_json(self) -> dict[str, Any]:
        """Every row with options, scores and costs."""
        return {"stories": self.stories} | {
            table: [
                {
                    "name": row.name,
                    "options": vars(row.options),
                    "time_ratio": row.time_ratio,
                    **{
                        task: {
                            "scores": scores_to_json(row.scores[task]),
                            "cost": row.costs[task].to_json(),
                        }
                        for task in row.scores
                    },
                }
                for row in getattr(self, table)
            ]
            for table in ("samplers", "savings")
        }

    def to_markdown(self) -> str:
        """Shares in per cent, psnr in dB, rms of values from 0 to 255; generation / extension."""
        names = list(self.savings[0].scores[TASKS[0]])
        lines = [
            f"Per cent of {self.stories} stories, psnr in dB, rms of values from 0 to 255; "
            "generation / extension.",
            "",
            f"| sampler, steps | error | {' | '.join(names)} |",
            "|---" * (len(names) + 2) + "|",
            *(f"| {row.name} | {_errors(row)} | {_cells(row)} |" for row in self.samplers),
            "",
            f"| saving | evaluations | time | error | {' | '.join(names)} |",
            "|---" * (len(names) + 4) + "|",
        ]
        for row in self.savings:
            costs = row.costs.values()
            lines.append(
                f"| {row.name} | {' / '.join(f'{cost.evaluations:.1f}' for cost in costs)} | "
                f"{'-' if row.time_ratio is None else f'{row.time_ratio:.2f}'} | "
                f"{_errors(row)} | {_cells(row)} |"
            )
        return "\n".join(lines)


def sampler_rows(options: SamplingOptions) -> dict[str, SamplingOptions]:
    """Every sampler with every number of steps, else as the options say."""
    return {
        f"{sampler}, {steps}": options.full().replace(sampler=sampler, steps=steps)
        for sampler in SAMPLERS
        if sampler != "euler"  # another name of ddim
        for steps in STEPS
    }


def saving_rows(options: SamplingOptions) -> dict[str, SamplingOptions]:
    """Rows of the table of savings: the full run of the options first, then what saves.

    The last rows save nothing, but stand there to show what they change.
    """
    changes: dict[str, dict[str, Any]] = {
        "everything evaluated": {},
        "guidance in steps 0 to 50 %": {"guidance_end": 0.5},
        "guidance in steps 50 to 100 %": {"guidance_start": 0.5},
        "guidance in steps 20 to 80 %": {"guidance_start": 0.2, "guidance_end": 0.8},
        "unconditional branch every 2nd step": {"reuse_uncond": 2},
        "unconditional branch every 3rd step": {"reuse_uncond": 3},
        "unconditional branch every 5th step": {"reuse_uncond": 5},
        "step cache, tolerance 0.05": {"cache_tolerance": 0.05},
        "step cache, tolerance 0.1": {"cache_tolerance": 0.1},
        "step cache, tolerance 0.2": {"cache_tolerance": 0.2},
        "tolerance 0.1, every 2nd step": {"cache_tolerance": 0.1, "reuse_uncond": 2},
        "guidance by given scenes, 1.5": {"given_guidance_scale": 1.5},
        "guidance by given scenes, 3": {"given_guidance_scale": 3.0},
        "guidance rescaled by 0.7": {"guidance_rescale": 0.7},
        "clean latents within 1": {"clip_x0": 1.0},
        "steps spaced in log-SNR": {"spacing": "log_snr"},
    }
    return {name: options.full().replace(**change) for name, change in changes.items()}


def compare_sampling(
    engine: Engine,
    samplers: Mapping[str, SamplingOptions],
    savings: Mapping[str, SamplingOptions],
    num_stories: int,
    seed: int,
    many_steps: int = MANY_STEPS,
) -> SamplingTables:
    """Both tables, on held-out stories of the run's world; the first saving is the full run.

    The errors of samplers are those against DDIM with `many_steps`. Progress goes to stderr.
    """
    full = next(iter(savings.values()))

    def sample(name: str, options: SamplingOptions) -> tuple[dict[str, Scores], _Batches]:
        print(name, file=sys.stderr, flush=True)
        scores: dict[str, Scores] = {}
        batches: _Batches = {task: [] for task in TASKS}
        for task in TASKS:
            scores[task] = evaluate_stories(
                engine,
                num_stories=num_stories,
                extension=task == "extension",
                seed=seed,
                options=options,
                progress=batches[task].append,
            )
        return scores, batches

    def rows(
        chosen: Mapping[str, SamplingOptions], reference: _Batches, timed: bool
    ) -> Iterator[Row]:
        for name, options in chosen.items():
            scores, batches = sample(name, options)
            draws = options.table(engine.schedule).weights[:, 3].any()
            costs = {
                task: cost_of(batches[task], None if draws else reference[task]) for task in TASKS
            }
            ratio = _time_ratio(engine, options, full) if timed else None
            yield Row(name, options, scores, costs, ratio)

    many = full.replace(sampler="ddim", steps=many_steps)
    of_many = sample(f"ddim, {many_steps}", many)[1]
    of_samplers = list(rows(samplers, of_many, timed=False))
    of_full = sample("the full run", full)[1]
    return SamplingTables(of_samplers, list(rows(savings, of_full, timed=True)), num_stories)


def _time_ratio(engine: Engine, options: SamplingOptions, full: SamplingOptions) -> float:
    """Time of sampling one extension, decoding included: median of the ratios of neighbours."""
    recipe, world = world_of(engine)
    data = recipe.config.data
    story = recipe.open_stories(0, world.lengths(data.scenes, data.frames, 0), True, 1)[0]
    given = np.arange(data.scenes)[None] < data.scenes - 1

    def run(chosen: SamplingOptions) -> Callable[[], float]:
        def timed() -> float:
            started = time.perf_counter()
            engine.sample_many(
                [story.captions],
                [0],
                options=chosen,
                clips=story.video[None],
                given=given,
                global_prompts=global_prompts([story]),
            )
            return time.perf_counter() - started

        timed()  # compiles
        return timed

    saving, whole = run(options), run(full)
    return statistics.median(saving() / whole() for _ in range(TIMED_RUNS))


def _errors(row: Row) -> str:
    errors = [cost.error for cost in row.costs.values()]
    return " / ".join("-" if error is None else f"{error:.3f}" for error in errors)


def _cells(row: Row) -> str:
    return " | ".join(
        " / ".join(scores[name].shown(scores[name].value) for scores in row.scores.values())
        for name in row.scores[TASKS[0]]
    )
