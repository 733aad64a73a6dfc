"""The reference of all config fields as Markdown.

`python -m m2dit_jax.config.docs > docs/config.md`, in a checkout, writes it anew.
"""

import textwrap
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

from flax.traverse_util import flatten_dict

from m2dit_jax.config.fields import (
    FREE,
    LOCKED,
    OVERRIDE,
    Declared,
    Rule,
    declared_fields,
    type_name,
)
from m2dit_jax.config.schema import Config

_INTRODUCTION = """# Fields of a config

Written from `m2dit_jax/config/*_fields.py`, where each field stands with its check; the defaults
are those of `configs/base.py`. On the command line, `--config.train.steps=500` changes a field.

A run that goes on from its checkpoint may have another value of the fields that are "free", and
with `--override` of those where that is said; the others change what is learnt from what, and are
locked. `run.jsonl` in the run's folder records each change.
"""
_HEAD = "| field | type | default | range | resume | meaning |\n" + "| --- " * 6 + "|"
_IN = " " * 6  # in front of a field's sentence on a terminal
_RESUME = {LOCKED: "locked", OVERRIDE: "`--override`", FREE: "free"}


def to_markdown(defaults: Config) -> str:
    """A table for each section, with the values of `defaults`."""
    declared = declared_fields(Config)
    values = flatten_dict(defaults.to_dict(), sep=".")
    alone = [each for each in declared if "." not in each.name]
    parts = [_INTRODUCTION, _table(alone, values)]
    types = get_type_hints(Config)
    for section in fields(Config):
        if not is_dataclass(types[section.name]):
            continue
        rule: Rule = section.metadata["rule"]
        inside = [each for each in declared if each.name.startswith(f"{section.name}.")]
        title = f"\n## {section.name}\n\n{rule.sentence}{_sources(rule)}\n"
        parts += [title, _table(inside, values, rule)]
    return "\n".join(parts) + "\n"


def to_help(config: Config) -> str:
    """Each field as a flag with its value in `config`, and its sentence, for a terminal."""
    values = flatten_dict(config.to_dict(), sep=".")
    lines = []
    for each in declared_fields(Config):
        if each.rule.is_read(config.data.source):
            lines.append(f"  --config.{each.name}={values[each.name]}")
            text = f"{each.rule.sentence} ({each.rule.range})"
            lines.append(textwrap.fill(text, 100, initial_indent=_IN, subsequent_indent=_IN))
    return "\n".join(lines)


def _table(declared: list[Declared], values: dict[str, Any], section: Rule | None = None) -> str:
    said = section.sources if section else ()  # of the whole section
    return "\n".join([_HEAD, *(_row(each, values[each.name], said) for each in declared)])


def _sources(rule: Rule) -> str:
    return f" Only for {' and '.join(rule.sources)}." if rule.sources else ""


def _row(each: Declared, value: Any, said: tuple[str, ...]) -> str:
    meaning = each.rule.sentence
    if each.rule.sources != said:
        meaning += _sources(each.rule)
    cells = (
        f"`{each.name}`",
        type_name(each.type),
        f"`{value!r}`",
        each.rule.range,
        _RESUME[each.rule.resume],
        meaning,
    )
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


if __name__ == "__main__":
    from configs.base import get_config

    print(to_markdown(Config.from_dict(get_config())), end="")
