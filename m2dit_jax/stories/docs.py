"""The docs page of a storyboard's fields, made from their declarations."""

from m2dit_jax.stories.settings import StoryOptions
from m2dit_jax.stories.storyboard import Scene, Storyboard
from m2dit_jax.utils.options import OptionField, Options, declared

_AFFECTS = {
    "latents": "all scenes generated together",
    "scene": "a scene's latents",
    "windows": "which scenes are generated together",
    "checks": "which attempts are kept",
    "video": "only the files that are written",
    None: "nothing by itself",
}


def storyboard_page() -> str:
    """Markdown with a table of the story's fields and one of a scene's (docs/storyboards.md)."""
    return "\n".join(
        [
            "# Fields of a storyboard",
            "",
            "A storyboard is a YAML or JSON file that says what a story shows: "
            "[an example](quickstart.md#write-a-storyboard). Only the prompts must be given.",
            "",
            "*Default*: what holds where the field is left out; *the model's* is what the run's "
            "config or the released model says. *Changes*: what is made anew when another value "
            "is given; the rest is kept ([Stories of any length](stories.md#change-one-scene)).",
            "",
            "Every field of a story but `scenes` and `lora` is also a flag of `m2dit sample`, "
            "whose own `--lora` changes the model, and an argument of a pipeline's call.",
            "",
            "## Of the story",
            "",
            "`scenes`: a list of scenes, which must not be empty.",
            "",
            *_table(StoryOptions),
            _row(Storyboard, declared(Storyboard)["lora"]),
            "",
            "## Of a scene",
            "",
            *_table(Scene),
            "",
            "This page is made from the code, by `python -m m2dit_jax.stories.docs`.",
            "",
        ]
    )


def _table(model: type[Options]) -> list[str]:
    rows = ["| field | what it is | needs | default | changes |", "|---|---|---|---|---|"]
    return rows + [_row(model, option) for option in declared(model).values()]


def _row(model: type[Options], option: OptionField) -> str:
    is_storys = model is Scene and option.name in (*StoryOptions.model_fields, "lora")
    default = "the story's" if is_storys else option.default_text
    cells = option.description, option.needed, default, _AFFECTS[option.affects]
    return f"| `{option.name}` | {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


if __name__ == "__main__":
    print(storyboard_page(), end="")
