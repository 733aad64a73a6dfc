"""What the page knows of the model: its defaults, its limits, its words, and an example."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m2dit_jax.data.encoded import EncodedDataset, dataset_folders
from m2dit_jax.data.worlds import World
from m2dit_jax.models.masks import check_global_text
from m2dit_jax.pipeline.pipeline import Pipeline
from m2dit_jax.stories.settings import StoryOptions
from m2dit_jax.stories.storyboard import Storyboard

# For models that no captions are known of.
_EXAMPLE = (
    "A red fox with a blue scarf walks through a snowy forest in the morning light.",
    "The fox stops at a frozen river and looks at its reflection in the ice.",
    "The fox sleeps in a warm cave while snow falls outside at night.",
)
_MOST_WORDS = 300
Mappings = Callable[[int], Mapping[str, Any]]
LookAhead = Callable[[Storyboard, Path], tuple[Sequence[str], Sequence[str]]]


@dataclass(frozen=True)
class AppModel:
    """Facts about a model for the page. `defaults` are those that a storyboard leaves to it.

    `words` are all that its prompts may have, none where every text will do. `frames` are the
    lengths that its scenes may have, `fixed_size` says that its pictures have one size alone,
    `global_text` that it reads a text for all scenes. `example` gives a storyboard's content for
    each number. `look_ahead` is that of the pipeline: notes, and a line for each scene.
    """

    name: str
    defaults: StoryOptions
    timesteps: int = 1000
    words: tuple[str, ...] = ()
    frames: range = range(1, 10_001)
    fixed_size: bool = False
    global_text: bool = True
    example: Mappings = lambda number: {"scenes": [{"prompt": prompt} for prompt in _EXAMPLE]}
    look_ahead: LookAhead = lambda storyboard, folder: ((), ())

    def facts(self) -> list[str]:
        """What the model can do, a sentence each."""
        made = self.defaults
        size = f"{made.width} x {made.height} pixels"
        lines = [f"A scene has {made.frames} frames of {size}, {made.fps:g} a second."]
        if self.fixed_size:
            lines.append("The size of its pictures cannot be changed.")
        if self.frames and len(self.frames) > 1:
            step = "" if self.frames.step == 1 else f", in steps of {self.frames.step}"
            lines.append(f"A scene may have {self.frames[0]} to {self.frames[-1]} frames{step}.")
        elif self.frames:
            lines.append(f"A scene has {self.frames[0]} frames, never more or less.")
        lines.append(
            f"A story may have any number of scenes; up to {made.window} are made at once, and see "
            "each other."
        )
        if self.words:
            lines.append("It knows these words alone; capitals and punctuation do not matter:")
        return lines


def describe_model(pipeline: Pipeline, name: str) -> AppModel:
    """The facts of a pipeline's model, read from its configs; no weights are loaded."""
    recipe = pipeline.trained.recipe if pipeline.trained else None
    world = recipe.world if recipe else None
    words = tuple(world.vocabulary()) if world else ()
    captions = [] if recipe is None or world else _captions(recipe.config.data.paths)
    return AppModel(
        name=name,
        defaults=pipeline.defaults,
        timesteps=pipeline.schedule.timesteps,
        words=words if len(words) <= _MOST_WORDS else (),
        frames=_possible_frames(pipeline),
        fixed_size=not _takes_sizes(pipeline),
        global_text=_reads_global_text(pipeline),
        example=_examples(pipeline.defaults, world, captions),
        look_ahead=pipeline.look_ahead,
    )


def _possible_frames(pipeline: Pipeline) -> range:
    """The lengths of scenes, up to twice the usual one, that the model can make."""
    made = pipeline.defaults
    possible = [
        frames
        for frames in range(1, 2 * made.frames + 1)
        if _can(lambda n=frames: pipeline.check_size(n, made.height, made.width))
    ]
    if len(possible) < 2:
        return range(made.frames, made.frames + 1)
    return range(possible[0], possible[-1] + 1, possible[1] - possible[0])


def _takes_sizes(pipeline: Pipeline) -> bool:
    made = pipeline.defaults
    larger = 2 * made.height, 2 * made.width
    return _can(lambda: pipeline.check_size(made.frames, *larger))


def _reads_global_text(pipeline: Pipeline) -> bool:
    return _can(lambda: check_global_text(pipeline.mask))


def _can(check: Callable[[], None]) -> bool:
    try:
        check()
    except ValueError:
        return False
    return True


def _captions(paths: str) -> list[list[str]]:
    """The captions of the first stories that a run learnt from; none if they are gone."""
    with suppress(ValueError, OSError, IndexError):
        dataset = EncodedDataset(dataset_folders(paths)[0])
        return [dataset[number]["captions"] for number in range(min(len(dataset), 5))]
    return []


def _examples(
    defaults: StoryOptions, world: World | None, captions: Sequence[Sequence[str]]
) -> Mappings:
    """Stories as the model has learnt them, drawn or from its own captions."""

    def example(number: int) -> Mapping[str, Any]:
        if world is not None:
            lengths = ((defaults.frames,) * defaults.window,)
            size = max(world.least_size, 16)  # only the captions are wanted
            story = world.open(number + 1, lengths, size, False, 1)[0]
            texts = {"global_prompt": story.global_prompt} if story.global_prompt else {}
            return {"scenes": [{"prompt": as_sentence(text)} for text in story.captions], **texts}
        known = captions[number % len(captions)] if captions else _EXAMPLE
        return {"scenes": [{"prompt": prompt} for prompt in known]}

    return example


def as_sentence(caption: str) -> str:
    """The caption with a capital and a full stop."""
    return f"{caption[:1].upper()}{caption[1:]}."
