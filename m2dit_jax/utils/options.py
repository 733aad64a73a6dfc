"""Options that are declared once: a pydantic field with type, default, range and one sentence.

From the declaration come the check and its message, the command's flag (`m2dit_jax.cli`), the field
of a storyboard, what a generated scene depends on, and the page of the docs.
"""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import numpy as np
from annotated_types import Ge, Le
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

Model = TypeVar("Model", bound="Options")
Problem = tuple[str, str]  # path of a field ("" for the whole), what was found and what is needed
# latents: all scenes that are generated together; scene: a value for each scene, which counts for
# its own latents and those beside it; windows: which scenes are generated together; checks: which
# attempts are kept; video: only the files that are written.
Affects = Literal["latents", "scene", "windows", "checks", "video"]
# Bounds of options, of config fields and of flags alike.
MAX_SEED = 2**32 - 1  # jax.random.key keeps 32 bits: seed 2**32 would repeat the story of seed 0
MAX_COUNT = 100_000  # of steps and much else
MAX_FRAMES = 10_000  # of a scene
MAX_WINDOW = 256  # scenes at once: what each depends on names all the others
MAX_SIDE = 16_384  # pixels, what video codecs go up to
MAX_TAKE = 1000
MAX_SCALE = 1000.0
MIN_FPS, MAX_FPS = 0.1, 240.0
_SHOWN = 50  # problems in a message; the others are counted
_TEXT = "text; put quotes around it if it is meant as text"


class OptionError(ValueError):
    """All that is wrong with some options, a line each: `steps: found 0, needs ...`."""

    def __init__(self, problems: Iterable[Problem]):
        self.problems = tuple(problems)
        lines = (f"{path}: {problem}" if path else problem for path, problem in self.problems)
        super().__init__(problem_lines(lines))


def option(
    default: Any,
    description: str,
    *,
    affects: Affects | None = None,
    needed: str = "",
    by_model: bool = False,
    later: bool = False,
) -> Any:
    """A field's declaration; its range is that of its type.

    `description` is one sentence for help and docs. `needed` says what would be right, where the
    type does not say it. An option that is left out is `by_model` filled with a default of the
    model's; the one given here is for where there is no model. A `later` option came when there
    were stories already: with its default it is not among what their scenes were made of.
    """
    extra: dict[str, Any] = {
        **{"affects": affects, "needed": needed, "by_model": by_model, "later": later}
    }
    return Field(default, description=description, json_schema_extra=extra)


def same_option(model: "type[Options]", name: str, default: Any) -> Any:
    """The declaration of another model's field, with another default."""
    field = declared(model)[name]
    return option(
        default,
        field.description,
        affects=field.affects,
        by_model=field.by_model,
        later=field.later,
    )


class Options(BaseModel, frozen=True):
    """Base of option models: unknown names and wrong values raise OptionError, naming them all."""

    model_config = ConfigDict(
        strict=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True
    )

    def __init__(self, **values: Any):
        values = {n: v.item() if isinstance(v, np.generic) else v for n, v in values.items()}
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise OptionError(_problems(type(self), values, error)) from None

    def replace(self: Model, **changes: Any) -> Model:
        """The same options with other values for some. Raises OptionError as a new one does."""
        return type(self)(**self.given_values() | changes)

    def given_values(self) -> dict[str, Any]:
        """Values of the fields that were set, and not left to their default."""
        return {
            name: getattr(self, name)
            for name in type(self).model_fields
            if name in self.model_fields_set
        }


@dataclass(frozen=True)
class OptionField:
    """The declaration of a field. `kind` is the type of one value, a tuple has `many`."""

    name: str
    kind: type
    many: bool
    choices: tuple[str, ...]
    default: Any
    required: bool
    description: str
    needed: str
    affects: Affects | None
    by_model: bool
    later: bool
    least: int | float | None = None  # of one value, as `most`
    most: int | float | None = None

    @property
    def default_text(self) -> str:
        """The default as help and docs show it."""
        if self.required:
            return "none, it must be given"
        if self.by_model:
            return "the model's"
        return {None: "none", (): "none", "": "empty"}.get(self.default, shown(self.default))

    def from_text(self, text: str) -> Any:
        """The value that a text stands for; other text stays, so that the check names it."""
        if self.kind not in (int, float):
            return text
        for kind in (int, float):
            try:
                return kind(text)
            except ValueError:
                pass
        return text


@cache
def declared(model: type[Options]) -> Mapping[str, OptionField]:
    """The fields of a model by name, in the order of their declaration."""
    return {name: _declared(name, info) for name, info in model.model_fields.items()}


def _declared(name: str, info: FieldInfo) -> OptionField:
    kind, many, choices, limits = _kind(info.annotation, info.metadata)
    extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
    extra = {"affects": None, "needed": "", "by_model": False, "later": False} | extra
    required = info.is_required()
    return OptionField(
        name=name,
        kind=kind,
        many=many,
        choices=choices,
        default=None if required else info.default,
        required=required,
        description=info.description or "",
        needed=str(extra["needed"]) or _needed(kind, many, choices, limits),
        affects=extra["affects"],  # pyright: ignore[reportArgumentType]
        by_model=bool(extra["by_model"]),
        later=bool(extra["later"]),
        least=_least(limits),
        most=_most(limits),
    )


def _kind(annotation: Any, metadata: Iterable[Any]) -> tuple[type, bool, tuple[str, ...], list]:
    """The type of one value, whether there may be many, its choices, its limits.

    Of a union the first member counts.
    """
    limits = [limit for limit in metadata if isinstance(limit, Ge | Le)]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        inner = (
            m for a in arguments[1:] for m in (a.metadata if isinstance(a, FieldInfo) else [a])
        )
        return _kind(arguments[0], [*limits, *inner])
    if origin in (Union, UnionType):
        return _kind(next(a for a in arguments if a is not NoneType), limits)
    if origin is Literal:
        return str, False, arguments, limits
    if origin is tuple:
        kind, _, choices, limits = _kind(arguments[0], limits)
        return kind, True, choices, limits
    return annotation, False, (), limits


def _least(limits: list) -> Any:
    return next((limit.ge for limit in limits if isinstance(limit, Ge)), None)


def _most(limits: list) -> Any:
    return next((limit.le for limit in limits if isinstance(limit, Le)), None)


def _needed(kind: type, many: bool, choices: tuple[str, ...], limits: list) -> str:
    if choices:
        return f"{'one or a list of' if many else 'one of'} {', '.join(choices)}"
    least, most = _least(limits), _most(limits)
    span = (
        ""
        if least is None or most is None
        else f", from {number_text(least)} to {number_text(most)}"
    )
    if kind is int:
        return f"a whole number{span}"
    if kind is float:
        return f"a finite number{span}"
    return {bool: "true or false", str: "text"}.get(kind, f"a {kind.__name__}")


def _problems(
    model: type[Options], values: Mapping[str, Any], error: ValidationError
) -> list[Problem]:
    """Pydantic's findings in the words of the declaration; of nested problems the innermost."""
    problems: dict[str, list[Problem]] = {}  # by field
    nested: dict[str, list[Problem]] = {}
    for found in error.errors(include_url=False):
        name = str(found["loc"][0])
        place = found["loc"][1:2]
        cause = found.get("ctx", {}).get("error")
        field = declared(model).get(name)
        if field is None:
            problems[name] = [("", unknown_key(name, model.model_fields))]
        elif found["type"] == "missing":
            problems[name] = [(name, f"missing, needs {field.needed}")]
        elif place and issubclass(field.kind, Options):
            path = f"{name}[{place[0]}]"
            if isinstance(cause, OptionError):
                inner = [(f"{path}.{p}" if p else path, problem) for p, problem in cause.problems]
            else:
                needed = f"a mapping with the keys {', '.join(field.kind.model_fields)}"
                inner = [(path, f"found {shown(found['input'])}, needs {needed}")]
            nested.setdefault(name, []).extend(inner)
        else:
            needed = _TEXT if found["type"] == "string_type" else field.needed
            if isinstance(cause, OptionError):
                problem = str(cause)
            else:
                problem = wrong(values[name], str(cause) if cause else needed)
            problems.setdefault(name, [(name, problem)])
    return [problem for name in problems | nested for problem in (problems | nested)[name]]


def problem_lines(problems: Iterable[str]) -> str:
    """The problems, a line each: the first 50, and how many more there are."""
    lines = list(problems)
    more = len(lines) - _SHOWN
    return "\n".join(lines[:_SHOWN] + ([f"... and {more} more problems"] if more > 0 else []))


def short(text: object, most: int = 500) -> str:
    """The text, or its start: paths in messages may be of any length."""
    text = str(text)
    return text if len(text) <= most else f"{text[:most]}..."


def wrong(value: Any, needed: str) -> str:
    """The message about a value that cannot be."""
    return f"found {shown(value)}, needs {needed}"


def unknown_key(name: Any, names: Iterable[str]) -> str:
    """The message about a name that is none, with the nearest one, or all.

    Of those that begin with it the first, which is declared before its refinements.
    """
    names, text = list(names), str(name)[:100]
    near = [n for n in names if len(text) > 2 and n.startswith(f"{text}_")]
    near = near or difflib.get_close_matches(text, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"needs one of {', '.join(names)}"
    return f"unknown key {shown(name)}, {hint}"


def number_text(value: int | float) -> str:
    """The number, without `.0` if it is whole."""
    return str(int(value)) if value == int(value) else str(value)


def shown(value: Any) -> str:
    """The value on one line of at most 60 characters, as a YAML file would write it."""
    match value:
        case None:
            return "nothing"
        case bool():
            return str(value).lower()
        case list() | tuple():
            return f"a list of {len(value)}"
        case Mapping():
            return f"a mapping of {len(value)}"
        case int() if abs(value) > 10**57:
            return "a number of very many digits"
        case np.ndarray():
            return f"an array {value.dtype} {list(value.shape)}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def joined_surrogates(text: str) -> str:
    """Text in which a character beyond 16 bits, which JSON may write as two escapes, is one.

    Raises ValueError, with what is needed, for half of such a pair.
    """
    try:
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        raise ValueError(r"text; one half of a \uD800-\uDFFF pair is missing") from None


Text = Annotated[str, AfterValidator(joined_surrogates)]
Count = Annotated[int, Field(ge=1, le=MAX_COUNT)]
Frames = Annotated[int, Field(ge=1, le=MAX_FRAMES)]
WindowSize = Annotated[int, Field(ge=1, le=MAX_WINDOW)]
Side = Annotated[int, Field(ge=1, le=MAX_SIDE)]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
Take = Annotated[int, Field(ge=0, le=MAX_TAKE)]
Scale = Annotated[float, Field(ge=0, le=MAX_SCALE)]
FrameRate = Annotated[float, Field(ge=MIN_FPS, le=MAX_FPS)]
Share = Annotated[float, Field(ge=0, le=1)]
