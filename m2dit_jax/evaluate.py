"""Scores models and videos: m2dit evaluate [PROGRAM] --FLAG=VALUE ...

stories   a run on held-out stories, or on the clips that it learnt by heart (the default)
adapters  a run's base without and with the adapters that the run trained
long      stories of more scenes than were trained, by the place of a scene
leakage   how far a scene's prompt reaches into other scenes
sampling  samplers, numbers of steps and what saves evaluations, beside each other
masks     trains and scores attention masks with the same budget and seeds
videos    finished videos of any kind
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from m2dit_jax.cli import (
    WorkFailed,
    add_option_flags,
    add_quantize_flag,
    as_flags,
    bounded_float,
    bounded_int,
    count,
    filled,
    make_parser,
    naming,
    options_from_flags,
    options_given,
    processes,
    run_command,
    seed_number,
    window_size,
)
from m2dit_jax.data.worlds import WORLDS
from m2dit_jax.diffusion.options import SamplingOptions
from m2dit_jax.evaluation.adapters import open_base, score_adapters
from m2dit_jax.evaluation.arms import ARMS
from m2dit_jax.evaluation.children import RunFailed
from m2dit_jax.evaluation.compare import compare, plan_comparison
from m2dit_jax.evaluation.compare_sampling import compare_sampling, sampler_rows, saving_rows
from m2dit_jax.evaluation.cuts import Tolerance
from m2dit_jax.evaluation.extractors import CLASSICAL, open_extractors
from m2dit_jax.evaluation.leakage import LeakReport, measure_leakage
from m2dit_jax.evaluation.long_stories import LongReport, evaluate_long
from m2dit_jax.evaluation.pictures import score_pictures
from m2dit_jax.evaluation.recall import recall_run
from m2dit_jax.evaluation.score_run import score_run, scored_sheet
from m2dit_jax.evaluation.untrained_masks import FromSingle, compare_from_single
from m2dit_jax.evaluation.video_stories import find_stories
from m2dit_jax.evaluation.videos import (
    DEFAULT_TOLERANCE,
    PAGE,
    SCORES,
    score_videos,
    write_video_report,
)
from m2dit_jax.pipeline.engine import Engine
from m2dit_jax.pipeline.load import load
from m2dit_jax.report.sheets import contact_sheet
from m2dit_jax.stories.windows import Windows
from m2dit_jax.utils.compile_cache import COMPILE_CACHE_HELP, keep_compiled
from m2dit_jax.utils.files import atomic_write, write_json
from m2dit_jax.utils.options import MAX_FRAMES, MAX_SEED

DEFAULT_CONFIG = "base"
_STORIES = bounded_int(1, 10**6)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status, as `run_command` says.

    1: a compared run failed.
    """
    name, argv = choose_program(sys.argv[1:] if argv is None else argv)
    program = PROGRAMS[name]
    flags = program.parse(name, argv)
    return run_command(
        lambda: _run(program, flags),
        on_interrupt="interrupted; the same command goes on from here",
    )


def _run(program: "Program", flags: argparse.Namespace) -> None:
    for field in ("json", "sheet"):
        if path := getattr(flags, field, None):
            if path.is_dir():
                raise ValueError(f"--{field}={path}: is a folder, needs the name of a file")
            path.parent.mkdir(parents=True, exist_ok=True)
    last = getattr(flags, "seed", 0) + getattr(flags, "stories", 0) - 1
    if last > MAX_SEED:  # its noise would be that of another story
        raise ValueError(f"--seed={flags.seed}: the last story has seed {last}, above {MAX_SEED}")
    try:
        program.run(flags)
    except RunFailed as error:
        raise WorkFailed(error) from error


def choose_program(argv: Sequence[str]) -> tuple[str, list[str]]:
    """The program and its own arguments.

    Without a name the flags of older versions choose it: --scenes, --leakage, --compare_sampling,
    --compare and --videos; else held-out stories are scored.
    """
    if argv and argv[0] in PROGRAMS:
        return argv[0], list(argv[1:])
    for switch, name in (
        ("--leakage", "leakage"),
        ("--compare_sampling", "sampling"),
        ("--compare", "masks"),
    ):
        if switch in argv:
            return name, [argument for argument in argv if argument != switch]
    names = [argument.partition("=")[0] for argument in argv]
    chosen = "videos" if "--videos" in names else "long" if "--scenes" in names else "stories"
    return chosen, list(argv)


# --- the programs


def _score_stories(flags: argparse.Namespace) -> None:
    engine, options = _open(flags, needs_world=False)
    assert engine.trained is not None  # checked
    if engine.trained.recipe.config.data.source == "pixels":
        recall = recall_run(engine, flags.stories, flags.seed, options)
        _write(flags, recall.to_text(), recall.to_json, recall.sheet)
        return
    scored = score_run(engine, flags.stories, flags.seed, options)
    _write(flags, scored.report.to_text(), scored.report.to_json, lambda: scored_sheet(scored))
    for task, cost in scored.costs.items():
        print(f"{task}: {cost.to_text()}")


def _score_long_stories(flags: argparse.Namespace) -> None:
    engine, options = _open(flags)
    defaults = engine.defaults
    window = flags.window or defaults.window
    windows = Windows(
        window,
        min(flags.new_scenes or defaults.new_scenes, window),
        defaults.anchor if flags.anchor is None else flags.anchor,
    )
    report: LongReport
    report, captions, video = evaluate_long(
        engine, flags.scenes, windows, flags.stories, flags.seed, options
    )
    _write(flags, report.to_text(), report.to_json, lambda: contact_sheet(video, captions))


def _score_pictures(flags: argparse.Namespace) -> None:
    engine, options = _open(flags)
    report = score_pictures(engine, flags.stories, flags.seed, options)
    _write(flags, report.to_text(), report.to_json, report.sheet)


def _score_adapters(flags: argparse.Namespace) -> None:
    adapted, options = _open(flags)
    base = open_base(adapted, flags.checkpoint, flags.dtype, flags.quantize)
    report = score_adapters(base, adapted, flags.stories, flags.seed, options)
    _write(flags, report.to_text(), report.to_json, report.sheet)


def _measure_leakage(flags: argparse.Namespace) -> None:
    engine, options = _open(flags)
    report: LeakReport = measure_leakage(engine, flags.stories, flags.seed, options)
    _write(flags, report.to_text(), report.to_json, report.to_picture)


def _compare_sampling(flags: argparse.Namespace) -> None:
    engine, options = _open(flags)
    rows = sampler_rows(options), saving_rows(options)
    table = compare_sampling(engine, *rows, flags.stories, flags.seed)
    _write(flags, table.to_markdown(), table.to_json)


def _compare_masks(flags: argparse.Namespace) -> None:
    if flags.tuned_steps and not flags.single_steps:
        raise ValueError("--tuned_steps: needs --single_steps, the steps on single scenes before")
    plan = plan_comparison(
        flags.config,
        flags.overrides,
        flags.arms,
        flags.seeds,
        flags.stories,
        flags.long_scenes,
        flags.long_stories,
        flags.seed,
        lambda options: options_from_flags(flags, options),
        as_flags(options_given(flags, SamplingOptions)),
        flags.workdir,
        flags.jobs,
    )
    if flags.single_steps:
        start = FromSingle(flags.single_steps, flags.tuned_steps)
        results = compare_from_single(plan, start)
    else:
        results = {"": compare(plan)}
    for name, result in results.items():
        print(f"\n{name}:\n" if name else "")
        print(result.to_markdown())
        folder = flags.workdir / name
        print(f"{folder / 'compare.md'}, {folder / 'compare.json'}")


def _score_videos(flags: argparse.Namespace) -> None:
    videos = flags.videos
    output = flags.output or (videos.parent if videos.is_file() else videos)
    stories, problems = find_stories(videos, flags.storyboard, flags.actors)
    extractors = open_extractors(flags.extractor, flags.dino, flags.clip)
    report = score_videos(
        stories, problems, extractors, flags.reference_videos, flags.cut_tolerance
    )
    write_video_report(report, output)
    print(report.to_text())
    print(f"{output / SCORES}, {output / PAGE}")


def _open(flags: argparse.Namespace, needs_world: bool = True) -> tuple[Engine, SamplingOptions]:
    """The model and how it is to sample. Raises ValueError if its stories cannot be scored so."""
    keep_compiled(flags.compile_cache)
    with naming("--checkpoint"):
        engine = load(flags.checkpoint, dtype=flags.dtype, quantize=flags.quantize)
    source = engine.trained.recipe.config.data.source if engine.trained else "latents"
    if source == "latents":
        raise ValueError(f"{flags.checkpoint}: stories of latents cannot be scored; sample some")
    if needs_world and source not in WORLDS:
        raise ValueError(
            f"{flags.checkpoint}: this needs a run on {' or '.join(WORLDS)}, it is one on {source}"
        )
    options = options_from_flags(flags, engine.options)
    options.table(engine.schedule)
    return engine, options


def _write(
    flags: argparse.Namespace,
    text: str,
    to_json: Callable[[], dict],
    picture: Callable[[], Image.Image] | None = None,
) -> None:
    """A result to the terminal, and to the files that the flags name."""
    print(text)
    if flags.json:
        write_json(flags.json, to_json())
        print(flags.json)
    if picture is not None and flags.sheet:
        with atomic_write(flags.sheet) as part:
            picture().save(part, format="PNG")
        print(flags.sheet)


# --- their flags


@dataclass(frozen=True)
class Program:
    """One way to score: its sentence for --help, its flags, and what it does with them."""

    sentence: str
    add_flags: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]
    example: str
    takes_config: bool = False
    """Whether --config.x=y are passed on, as `flags.overrides`."""

    def parser(self, name: str) -> argparse.ArgumentParser:
        """The parser of the program's flags."""
        others = ", ".join(other for other in PROGRAMS if other != name)
        example = f"{self.example}\nOther programs: {others}"
        parser = make_parser(f"evaluate {name}", self.sentence, example)
        self.add_flags(parser)
        return parser

    def parse(self, name: str, argv: Sequence[str]) -> argparse.Namespace:
        """The flags; ends with status 2 and a message for those that do not fit."""
        parser = self.parser(name)
        if not self.takes_config:
            return parser.parse_args(argv)
        flags, flags_left = parser.parse_known_args(argv)
        unknown = [flag for flag in flags_left if not flag.startswith("--config.")]
        if unknown:
            parser.error(f"unknown flags (of a config write --config.x=y): {' '.join(unknown)}")
        fixed = ("--config.model.mask", "--config.model.scene_positions", "--config.seed")
        if set_here := [flag for flag in flags_left if flag.partition("=")[0] in fixed]:
            parser.error(f"sets the mask and the seed itself: {' '.join(set_here)}")
        flags.overrides = flags_left
        return flags


def _add_stories(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("stories")
    group.add_argument("--stories", type=_STORIES, default=256, help="how many, default 256")
    group.add_argument(
        "--seed",
        type=seed_number,
        default=0,
        help="of the held-out stories; story i is sampled with seed + i; default 0",
    )
    add_option_flags(parser, SamplingOptions, "sampling, instead of the settings of the model")


def _add_run(parser: argparse.ArgumentParser, sheet: bool = True) -> None:
    parser.add_argument("--checkpoint", type=Path, required=True, help="workdir of a training run")
    parser.add_argument("--dtype", help="of the weights: float32 or bfloat16; default by device")
    add_quantize_flag(parser)
    parser.add_argument("--compile_cache", metavar="FOLDER", help=COMPILE_CACHE_HELP)
    parser.add_argument("--json", type=Path, help="file for the scores (default: none)")
    if sheet:
        parser.add_argument("--sheet", type=Path, help="PNG file for a picture (default: none)")
    _add_stories(parser)


def _add_long(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--scenes", type=count, required=True, help="of each story")
    _add_run(parser)
    group = parser.add_argument_group("windows")
    group.add_argument("--window", type=window_size, help="scenes at once; default: as in training")
    group.add_argument("--new_scenes", type=window_size, help="generated of these; default 1")
    group.add_argument(
        "--anchor",
        action=argparse.BooleanOptionalAction,
        help="always give the first scene (default: as the model)",
    )


def _add_masks(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        default=DEFAULT_CONFIG,
        help="of the runs, default base; its fields by --config.x.y=z",
    )
    parser.add_argument(
        "--arms",
        type=lambda text: text.split(","),
        help=f"masks with commas between them: {', '.join(ARMS)} (full attention that knows whose "
        "text it sees); default: all that the config can have",
    )
    parser.add_argument("--seeds", type=_seeds, default=[0, 1, 2], help="default 0,1,2")
    parser.add_argument(
        "--workdir",
        type=Path,
        default=Path("runs/compare"),
        help="for all runs (default: runs/compare)",
    )
    parser.add_argument("--jobs", type=processes, default=1, help="runs at a time, default 1")
    parser.add_argument(
        "--long_scenes",
        type=bounded_int(0, 1000),
        default=12,
        help="scenes of longer stories, made of windows as by `evaluate long`; default 12, 0: none",
    )
    parser.add_argument(
        "--long_stories", type=_STORIES, default=64, help="how many of them, default 64"
    )
    parser.add_argument(
        "--single_steps",
        type=bounded_int(0, 10**7),
        default=0,
        help="compare what masks do to a model that was trained on single scenes alone, for so "
        "many steps; default 0: each mask is trained from the beginning",
    )
    parser.add_argument(
        "--tuned_steps",
        type=bounded_int(0, 10**7),
        default=0,
        help="with --single_steps: then train that model with each mask for so many steps, for a "
        "second table; default 0",
    )
    _add_stories(parser)


def _add_videos(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--videos",
        type=Path,
        required=True,
        help="a folder that sample wrote, or a folder of such, or one of scenes, or a film of "
        "all scenes",
    )
    parser.add_argument(
        "--storyboard",
        type=Path,
        help="with the prompts, if there are scenes or a film, no story (default: the story's)",
    )
    parser.add_argument(
        "--extractor",
        type=filled,
        default=CLASSICAL,
        help="folder of a CLIP, DINO or DINOv2 model; default classical",
    )
    parser.add_argument(
        "--dino",
        type=Path,
        help="folder of DINO or DINOv2, for subject consistency (default: none)",
    )
    parser.add_argument(
        "--clip",
        type=Path,
        help="folder of CLIP, for background consistency and actors (default: none)",
    )
    parser.add_argument(
        "--actors", type=Path, help="who is where; default: actors.json in a story's folder"
    )
    parser.add_argument(
        "--cut_tolerance",
        type=_tolerance,
        default=DEFAULT_TOLERANCE,
        metavar="N|Ns",
        help="how far a cut may lie from where it is asked for, in frames, or in seconds with an "
        f"s such as 0.2s; default {DEFAULT_TOLERANCE}",
    )
    parser.add_argument(
        "--reference_videos",
        type=Path,
        help="clips to which the distance is measured (default: none)",
    )
    parser.add_argument("--output", type=Path, help="folder for the scores; default: --videos")


def _tolerance(text: str) -> Tolerance:
    if text.endswith("s"):
        return Tolerance(bounded_float(0, 60)(text[:-1]), seconds=True)
    return Tolerance(bounded_int(0, MAX_FRAMES)(text))


def _seeds(text: str) -> list[int]:
    seeds = [seed_number(part) for part in text.split(",")]
    if len(set(seeds)) != len(seeds):
        raise argparse.ArgumentTypeError(f"must be different, got {text}")
    return seeds


PROGRAMS = {
    "stories": Program(
        "Scores a run on held-out stories; of a run on clips, how well it gives them back.",
        _add_run,
        _score_stories,
        "--checkpoint=runs/base --json=scores.json",
    ),
    "pictures": Program(
        "Scores stories whose actors only a picture shows, with it, without, with another's.",
        _add_run,
        _score_pictures,
        "--checkpoint=runs/pictures --stories=64",
    ),
    "adapters": Program(
        "Scores what adapters do: stories of any actor, and of theirs, without and with them.",
        _add_run,
        _score_adapters,
        "--checkpoint=runs/white_circle --stories=64",
    ),
    "long": Program(
        "Scores stories of more scenes than were trained, by the place of a scene.",
        _add_long,
        _score_long_stories,
        "--checkpoint=runs/base --scenes=12 --stories=64",
    ),
    "leakage": Program(
        "Measures how far a scene's prompt reaches into other scenes.",
        _add_run,
        _measure_leakage,
        "--checkpoint=runs/base --stories=64 --sheet=leak.png",
    ),
    "sampling": Program(
        "Compares samplers, numbers of steps and what saves evaluations.",
        lambda parser: _add_run(parser, sheet=False),
        _compare_sampling,
        "--checkpoint=runs/base --stories=64",
    ),
    "masks": Program(
        "Trains and scores attention masks, those of the literature among them.",
        _add_masks,
        _compare_masks,
        "--config=base --config.train.steps=1500 --seeds=0,1",
        takes_config=True,
    ),
    "videos": Program(
        "Scores finished videos: consistency, alignment, cuts, motion, drift.",
        _add_videos,
        _score_videos,
        "--videos=out/",
    ),
}


if __name__ == "__main__":
    sys.exit(main())
