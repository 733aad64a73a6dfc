"""Scores a checkpoint on held-out stories, or trains and scores three attention masks.

python -m m2dit_jax.evaluate --checkpoint=runs/base --json=FILE
python -m m2dit_jax.evaluate --checkpoint=runs/base --compare_sampling --stories=128
python -m m2dit_jax.evaluate --compare --config=configs/base.py --config.train.steps=500 --seeds=0,1
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from absl.flags import Error as FlagsError
from absl.flags import FlagValues
from ml_collections import ConfigDict, config_flags
from PIL import Image

from m2dit_jax.config.recipe import build_recipe
from m2dit_jax.data.encoded import EncodedDataset
from m2dit_jax.diffusion.options import SamplingOptions
from m2dit_jax.evaluation.accuracy import StoryBatch, evaluate_stories, sample_held_out
from m2dit_jax.evaluation.compare import ARMS, Plan, RunFailed, compare
from m2dit_jax.evaluation.compare_sampling import compare_sampling, sampler_rows, saving_rows
from m2dit_jax.evaluation.extractors import CLASSICAL, open_extractor
from m2dit_jax.evaluation.leakage import LeakReport, measure_leakage
from m2dit_jax.evaluation.long_stories import LongReport, evaluate_long
from m2dit_jax.evaluation.recall import recall_sheet, recall_stories, training_stories
from m2dit_jax.evaluation.report import Report
from m2dit_jax.evaluation.sampling_cost import Cost, cost_of
from m2dit_jax.evaluation.videos import PAGE, SCORES, score_videos, write_video_report
from m2dit_jax.pipeline.engine import Engine
from m2dit_jax.pipeline.load import load
from m2dit_jax.pipeline.sampling_flags import add_sampling_flags, flags_given, with_flags
from m2dit_jax.report.sheets import contact_sheet, stories_sheet
from m2dit_jax.stories.windows import Windows
from m2dit_jax.utils.devices import prefer_available_platform
from m2dit_jax.utils.files import atomic_write, write_json

SHEET_STORIES = 4  # for each of generation and extension
MOST_RECALLED = 16  # training stories that are made again
DEFAULT_CONFIG = str(Path(__file__).parent.parent / "configs" / "base.py")


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 2, after a message, if the user's input is wrong."""
    parser = _parser()
    flags, others = parser.parse_known_args(argv)
    _check_flags(parser, flags, others)
    if flags.videos is not None:
        return _score_videos(flags)
    prefer_available_platform()
    if flags.compare:
        return _compare(flags, others)
    return _evaluate(flags)


def _score_videos(flags: argparse.Namespace) -> int:
    output = flags.output or flags.videos
    try:
        report = score_videos(
            flags.videos, flags.storyboard, flags.reference_videos, open_extractor(flags.extractor)
        )
        write_video_report(report, output)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(report.to_text())
    print(f"{output / SCORES}, {output / PAGE}")
    return 0


def _evaluate(flags: argparse.Namespace) -> int:
    try:
        for path in filter(None, (flags.json, flags.sheet)):
            path.parent.mkdir(parents=True, exist_ok=True)
        engine = load(flags.checkpoint)
        if engine.trained is None or engine.trained.recipe.config.data.source == "latents":
            raise ValueError(
                f"{flags.checkpoint}: stories of latents cannot be scored; sample some"
            )
        config = engine.trained.recipe.config
        options = with_flags(engine.options, flags)
        options.table(engine.schedule)
        for name in ("compare_sampling", "scenes", "leakage"):
            if getattr(flags, name) and config.data.source != "shapes":
                raise ValueError(f"{flags.checkpoint}: --{name} needs a run on shapes")
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2

    started = time.perf_counter()
    if config.data.source == "pixels":
        return _recall(flags, engine, options)
    if flags.scenes is not None:
        return _evaluate_long(flags, engine, options)
    if flags.leakage:
        return _measure_leakage(flags, engine, options)
    if flags.compare_sampling:
        rows = sampler_rows(options), saving_rows(options)
        table = compare_sampling(engine, *rows, flags.stories, flags.seed)
        print(table.to_markdown())
        if flags.json:
            write_json(flags.json, table.to_json())
        return 0
    scores, shown, costs = {}, {}, {}
    for task in ("generation", "extension"):
        progress = _Progress(task, flags.stories)
        scores[task] = evaluate_stories(
            engine,
            num_stories=flags.stories,
            extension=task == "extension",
            seed=flags.seed,
            options=options,
            progress=progress,
        )
        shown[task] = progress.batches[0]
        costs[task] = _cost(flags, engine, options, progress)
    report = Report(
        **scores,
        seconds=time.perf_counter() - started,
        checkpoint_step=engine.trained.step,
        sampling={
            "options": vars(options),
            **{task: cost.to_json() for task, cost in costs.items()},
        },
    )
    print(report.to_text())
    for task, cost in costs.items():
        print(f"{task}: {cost.to_text()}")
    if flags.json:
        write_json(flags.json, report.to_json())
        print(flags.json)
    if flags.sheet:
        _write_sheet(flags.sheet, shown)
        print(flags.sheet)
    return 0


def _measure_leakage(flags: argparse.Namespace, engine: Engine, options: SamplingOptions) -> int:
    report = measure_leakage(engine, flags.stories, flags.seed, options)
    _write_report(flags, report, report.to_picture)
    return 0


def _evaluate_long(
    flags: argparse.Namespace,
    engine: Engine,
    options: SamplingOptions,
) -> int:
    """Stories of more scenes than the model was trained with, scored by the place of a scene."""
    defaults = engine.defaults
    window = flags.window or defaults.window
    windows = Windows(
        window,
        min(flags.new_scenes or defaults.new_scenes, window),
        defaults.anchor if flags.anchor is None else flags.anchor,
    )
    report, captions, video = evaluate_long(
        engine, flags.scenes, windows, flags.stories, flags.seed, options
    )
    _write_report(flags, report, lambda: contact_sheet(video, captions))
    return 0


def _write_report(
    flags: argparse.Namespace,
    report: LeakReport | LongReport,
    picture: Callable[[], Image.Image],
) -> None:
    """To the terminal, and to the files that the flags name."""
    print(report.to_text())
    if flags.json:
        write_json(flags.json, report.to_json())
        print(flags.json)
    if flags.sheet:
        with atomic_write(flags.sheet) as part:
            picture().save(part, format="PNG")
        print(flags.sheet)


def _cost(
    flags: argparse.Namespace,
    engine: Engine,
    options: SamplingOptions,
    made: "_Progress",
) -> Cost:
    """Of what was made; where evaluations were saved, the full run is made too."""
    if options == options.full():
        return cost_of(made.batches)
    progress = _Progress(f"{made.task} with every evaluation", flags.stories)
    for batch in sample_held_out(
        engine,
        num_stories=flags.stories,
        extension=made.task == "extension",
        seed=flags.seed,
        options=options.full(),
    ):
        progress(batch)
    return cost_of(made.batches, progress.batches)


class _Progress:
    """Prints how far sampling is, to stderr, and keeps the batches."""

    def __init__(self, task: str, num_stories: int):
        self.task = task
        self.num_stories = num_stories
        self.done = 0
        self.started = time.perf_counter()
        self.batches: list[StoryBatch] = []

    def __call__(self, batch: StoryBatch) -> None:
        self.batches.append(batch)
        self.done += len(batch.stories)
        rate = self.done / (time.perf_counter() - self.started)
        print(
            f"{self.task}: {self.done} of {self.num_stories} stories, {rate:.1f} per second, "
            f"{(self.num_stories - self.done) / rate:.0f} s left",
            file=sys.stderr,
            flush=True,
        )


def _recall(
    flags: argparse.Namespace,
    engine: Engine,
    options: SamplingOptions,
) -> int:
    """For a run on real clips: what the prompts of its training stories bring back."""
    assert engine.trained is not None  # checked
    data, step = engine.trained.recipe.config.data, engine.trained.step
    try:
        datasets = [EncodedDataset(path) for path in data.paths.split(",")]
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    # Stories of one batch have one size; the first dataset's stand for all.
    clips = training_stories(datasets[:1], data.scenes, min(flags.stories, MOST_RECALLED))
    recalled = recall_stories(engine, clips, flags.seed, options)
    for number, (clip, values) in enumerate(zip(clips, recalled.psnr, strict=True)):
        for caption, value in zip(clip.captions, values, strict=True):
            print(f"story {number}: {value:5.1f} dB  {caption}")
    mean = float(recalled.psnr.mean())
    print(f"PSNR of {len(clips)} training stories from their prompts: {mean:.1f} dB, step {step}")
    if flags.json:
        write_json(
            flags.json,
            {
                "psnr": mean,
                "scenes": recalled.psnr.tolist(),
                "checkpoint_step": engine.trained.step,
            },
        )
    if flags.sheet:
        with atomic_write(flags.sheet) as part:
            recall_sheet(clips, recalled).save(part, format="PNG")
    return 0


def _write_sheet(path: Path, shown: dict[str, StoryBatch]) -> None:
    rows, titles = [], []
    for task, batch in shown.items():
        for i, story in enumerate(batch.stories[:SHEET_STORIES]):
            captions = [scene.caption for scene in story]
            rows.append((batch.video[i], captions, batch.given[i].tolist()))
            titles.append(f"{task}, story {i}")
    with atomic_write(path) as part:
        stories_sheet(rows, titles).save(part, format="PNG")


def _compare(flags: argparse.Namespace, overrides: Sequence[str]) -> int:
    evaluate_flags = [f"--stories={flags.stories}", f"--seed={flags.seed}", *flags_given(flags)]
    try:
        config = _load_config(flags.config, overrides)
        for arm in ARMS:
            config.model.mask = arm
            recipe = build_recipe(config)
            with_flags(_options_of(config), flags).table(recipe.schedule)
        flags.workdir.mkdir(parents=True, exist_ok=True)
        result = compare(
            Plan(
                config_file=flags.config,
                overrides=overrides,
                train_steps=config.train.steps,
                seeds=flags.seeds,
                evaluate_flags=evaluate_flags,
                workdir=flags.workdir,
                jobs=flags.jobs,
            )
        )
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except RunFailed as error:
        print(error, file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"\n{result.to_markdown()}")
    print(f"{flags.workdir / 'compare.md'}, {flags.workdir / 'compare.json'}")
    return 0


def _options_of(config: ConfigDict) -> SamplingOptions:
    """The sampling options of a run with this config."""
    sample = config.sample
    return SamplingOptions(
        sampler="ddim", steps=sample.steps, guidance_scale=float(sample.guidance_scale)
    )


def _load_config(config_file: str, overrides: Sequence[str]) -> ConfigDict:
    """Raises ValueError if there is no such config or an override does not fit it."""
    argv = ["evaluate", f"--config={config_file}", *overrides]
    values = FlagValues()
    try:
        holder = config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
        values(argv)
    except (FlagsError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{config_file}: {error}") from error
    # A file that is missing becomes an object that fails when it is used.
    if not isinstance(holder.value, ConfigDict):
        raise ValueError(f"{config_file}: cannot be read, needs a file with get_config()")
    return holder.value


def _check_flags(
    parser: argparse.ArgumentParser, flags: argparse.Namespace, others: Sequence[str]
) -> None:
    """Ends with status 2 and a message if the flags do not go together."""
    unknown = [flag for flag in others if not (flags.compare and flag.startswith("--config."))]
    if unknown:
        parser.error(f"unknown flags (with --compare write --config.x=y): {' '.join(unknown)}")
    fixed = [
        flag for flag in others if flag.split("=")[0] in ("--config.model.mask", "--config.seed")
    ]
    if fixed:
        parser.error(f"--compare sets the mask and the seed itself: {' '.join(fixed)}")
    ways = [flags.compare, flags.checkpoint is not None, flags.videos is not None]
    if sum(ways) != 1:
        parser.error("needs either --checkpoint=DIR or --compare or --videos=DIR")
    if flags.compare_sampling and (flags.compare or flags.sheet):
        parser.error("--compare_sampling takes no --compare or --sheet")
    measures = ("scenes", "leakage", "compare_sampling")
    asked = [f"--{name}" for name in measures if getattr(flags, name)]
    if len(asked) > 1 or (asked and not flags.checkpoint):
        parser.error(f"of {', '.join(asked)} at most one goes with --checkpoint=DIR")
    if flags.compare and (flags.json or flags.sheet):
        parser.error("--compare writes to --workdir and takes no --json or --sheet")


def _integer(least: int) -> Callable[[str], int]:
    def integer(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, got {value}")
        return value

    return integer


def _seeds(text: str) -> list[int]:
    seeds = [_integer(0)(part) for part in text.split(",")]
    if len(set(seeds)) != len(seeds):
        raise argparse.ArgumentTypeError(f"must be different, got {text}")
    return seeds


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m m2dit_jax.evaluate",
        description="Scores a checkpoint on held-out stories; with --compare trains and scores "
        f"three attention masks ({', '.join(ARMS)}).",
        allow_abbrev=False,
    )
    parser.add_argument("--checkpoint", type=Path, help="workdir of a training run")
    parser.add_argument("--json", type=Path, help="file for the scores")
    parser.add_argument("--sheet", type=Path, help="PNG file for some of the stories")
    parser.add_argument("--stories", type=_integer(1), default=256, help="default 256")
    parser.add_argument(
        "--seed", type=_integer(0), default=0, help="of stories and noise, default 0"
    )
    add_sampling_flags(parser)
    long = parser.add_argument_group("long stories, made window by window")
    long.add_argument("--scenes", type=_integer(1), help="score stories of so many, by place")
    long.add_argument("--window", type=_integer(1), help="scenes at once; default: as in training")
    long.add_argument("--new_scenes", type=_integer(1), help="generated of these; default 1")
    long.add_argument(
        "--anchor", action=argparse.BooleanOptionalAction, help="always give the first scene"
    )
    parser.add_argument(
        "--leakage",
        action="store_true",
        help="how far a scene's prompt reaches into other scenes",
    )
    parser.add_argument(
        "--compare_sampling",
        action="store_true",
        help="tables of samplers and steps, and of what saves evaluations",
    )
    videos = parser.add_argument_group("finished videos")
    videos.add_argument(
        "--videos", type=Path, help="score the stories of a folder that sample wrote, or of several"
    )
    videos.add_argument(
        "--storyboard", type=Path, help="with the prompts, if the folder has scenes and no story"
    )
    videos.add_argument(
        "--extractor", default=CLASSICAL, help="folder of a CLIP or DINOv2 model; default classical"
    )
    videos.add_argument(
        "--reference_videos", type=Path, help="clips to which the distance is measured"
    )
    videos.add_argument("--output", type=Path, help="folder for the scores; default: --videos")
    parser.add_argument("--compare", action="store_true", help="train and score three masks")
    parser.add_argument(
        "--config", default=DEFAULT_CONFIG, help="of the compared runs; also --config.x.y=z"
    )
    parser.add_argument("--seeds", type=_seeds, default=[0, 1], help="of the runs, default 0,1")
    parser.add_argument("--workdir", type=Path, default=Path("runs/compare"), help="for all runs")
    parser.add_argument("--jobs", type=_integer(1), default=1, help="runs at a time, default 1")
    return parser


if __name__ == "__main__":
    sys.exit(main())
