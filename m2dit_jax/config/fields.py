"""Fields of configs: one sentence, the values they take, and how both are checked.

A field is declared with `setting`; `read_fields` makes frozen dataclasses of a nested mapping, and
`range_problems` finds the values that cannot be. Both name every problem at once.
"""

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from flax.traverse_util import flatten_dict

from m2dit_jax.utils.options import number_text, problem_lines, shown

T = TypeVar("T")

# Whether a run goes on from its checkpoint with another value of the field: never, as it changes
# the mathematics or the order of the data; where the user says so; always.
LOCKED, OVERRIDE, FREE = "locked", "override", "free"


@dataclass(frozen=True)
class Rule:
    """The meaning of a field, and the values it takes.

    A number has a least value (or one that it lies `above`) and a greatest one, `at_most`.
    `sources` are the sources of data (`config.data.source`) that read the field; empty: all.
    `resume` is LOCKED, OVERRIDE or FREE. `absent` is what a config without the field means: one
    that was written before there was such a field; None: every config has it.
    """

    sentence: str
    at_least: int | float | None = None
    at_most: int | float | None = None
    above: int | float | None = None
    choices: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    resume: str = LOCKED
    absent: Any = None

    @property
    def range(self) -> str:
        """The values in words, such as "at least 1"; empty if every value of the type will do."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if self.at_most is None:
            return ""
        most = number_text(self.at_most)
        if self.above is not None:
            return f"above {self.above} and at most {most}"
        return f"between {self.at_least} and {most}"

    def allows(self, value: Any) -> bool:
        """Whether the value is in the range, of a tuple every item; NaN is in none."""
        if isinstance(value, tuple):
            return all(self.allows(item) for item in value)
        return (
            (not self.choices or value in self.choices)
            and (self.at_least is None or value >= self.at_least)
            and (self.at_most is None or value <= self.at_most)
            and (self.above is None or value > self.above)
        )

    def is_read(self, source: str) -> bool:
        """Whether this source of data reads the field."""
        return not self.sources or source in self.sources


def setting(sentence: str, **rule: Any) -> Any:
    """A dataclass field without default; the arguments are those of Rule."""
    return field(metadata={"rule": Rule(sentence, **rule)})


@dataclass(frozen=True)
class Declared:
    """A field as its class declares it, under its dotted name within the config."""

    name: str
    type: Any
    rule: Rule


def declared_fields(
    kind: Any, sources: tuple[str, ...] = (), prefix: str = "", resume: str = LOCKED
) -> list[Declared]:
    """All fields of a dataclass and of those in it.

    A section's sources hold for its fields, and so does its `resume` if it is not LOCKED.
    """
    found, types = [], get_type_hints(kind)
    for each in fields(kind):
        rule: Rule = each.metadata["rule"]
        if is_dataclass(types[each.name]):
            found += declared_fields(
                types[each.name], rule.sources, f"{prefix}{each.name}.", rule.resume
            )
        else:
            if sources:
                rule = replace(rule, sources=sources)
            if resume != LOCKED:
                rule = replace(rule, resume=resume)
            found.append(Declared(prefix + each.name, types[each.name], rule))
    return found


def read_fields(kind: type[T], values: Mapping[str, Any]) -> T:
    """The dataclass, with those in it, that nested mappings describe.

    Whole numbers are taken for fields of type float, lists for tuples. A field that is missing has
    its rule's `absent`. Raises ValueError naming every missing, unknown and mistyped field.
    """
    declared = {each.name: each for each in declared_fields(kind)}
    later = {n: e.rule.absent for n, e in declared.items() if e.rule.absent is not None}
    given: dict[str, Any] = later | flatten_dict(dict(values), sep=".")
    problems = [
        f"config.{name} is missing; configs/base.py has every field"
        for name in declared
        if name not in given
    ]
    flat = {}
    for name, value in given.items():
        if name not in declared:
            problems.append(unknown_field(name, declared))
            continue
        try:
            flat[name] = _converted(value, declared[name].type)
        except TypeError:
            needed = type_name(declared[name].type)
            problems.append(f"config.{name} needs the type {needed}, got {_got(value)}")
    if problems:
        raise ValueError(problem_lines(problems))
    return _build(kind, flat)


def unknown_field(name: str, known: Mapping[str, Any]) -> str:
    """The message for a name that no field has, with the nearest that one has."""
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0)[0]
    return f"config.{name}: there is no such field; the nearest is config.{nearest}"


def range_problems(config: Any, source: str) -> list[str]:
    """Every field that this source of data reads and whose value is out of range."""
    return [
        f"config.{each.name} must be {each.rule.range}, got {_got(value)}"
        for each, value in zip(declared_fields(type(config)), _values(config), strict=True)
        if each.rule.is_read(source) and not each.rule.allows(value)
    ]


def type_name(kind: Any) -> str:
    """The name of a field's type, such as int or tuple[float, ...]."""
    return kind.__name__ if isinstance(kind, type) and not get_origin(kind) else str(kind)


def _got(value: Any) -> str:
    """The value as a config file has it, shortened; a number of any length."""
    if isinstance(value, tuple | list):
        text = ", ".join(_got(item) for item in value[:20])
        return f"({text}, ...)" if len(value) > 20 else f"({text})"
    return shown(value) if isinstance(value, int) and abs(value) >= 10**57 else repr(value)[:200]


def _values(config: Any) -> Iterator[Any]:
    """The values in the order of `declared_fields`."""
    for each in fields(config):
        value = getattr(config, each.name)
        if is_dataclass(value):
            yield from _values(value)
        else:
            yield value


def _build(kind: type[T], flat: Mapping[str, Any], prefix: str = "") -> T:
    types = get_type_hints(kind)
    return kind(
        **{
            name: _build(types[name], flat, f"{prefix}{name}.")
            if is_dataclass(types[name])
            else flat[prefix + name]
            for name in types
        }
    )


def _converted(value: Any, kind: Any) -> Any:
    """The value as this type. Raises TypeError if it is of another."""
    if get_origin(kind) is tuple:
        if not isinstance(value, tuple | list):
            raise TypeError
        return tuple(_converted(item, get_args(kind)[0]) for item in value)
    if isinstance(value, bool) != (kind is bool):
        raise TypeError
    if kind is float and isinstance(value, int):
        return float(value)
    if not isinstance(value, kind):
        raise TypeError
    return value
