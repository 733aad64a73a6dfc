"""How a network's JSON config is read: declared fields, fixed values, one line for all problems."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from m2dit_jax.utils.options import OptionError, Options, shown


def read_json(
    config: str, fields: type[Options], json: Mapping[str, Any], fixed: Mapping[str, Any]
) -> dict[str, Any]:
    """The values of all declared fields, of their types and within their ranges.

    `config` names the kind of config in messages; `fixed` are the values of the variants that exist
    here, a key may be missing. Raises ValueError with all that is wrong.
    """
    required = [name for name, field in fields.model_fields.items() if field.is_required()]
    problems = [f"{key} is missing" for key in required if key not in json]
    problems += [
        f"{key} must be {value!r}, got {shown_value(json[key])}"
        for key, value in fixed.items()
        if json.get(key, value) != value
    ]
    raise_problems(config, problems)
    there: dict[str, Any] = {
        name: tuple(json[name]) if isinstance(json[name], list) else json[name]
        for name in fields.model_fields
        if name in json
    }
    try:
        return dict(fields(**there))
    except OptionError as error:
        raise_problems(config, [f"{path}: {problem}" for path, problem in error.problems])
        raise


def raise_problems(config: str, problems: list[str]) -> None:
    """Raises ValueError, with the kind of config, if there are problems."""
    if problems:
        raise ValueError(f"{config} config: {'; '.join(problems)}") from None


def shown_value(value: Any) -> str:
    """A value of a config on a short line."""
    return repr(value) if value is None or isinstance(value, bool) else shown(value)


def same_but(one: Any, other: Any, names: Sequence[str]) -> bool:
    """Whether two configs, dataclasses of one kind, differ in no other than these fields."""
    return one == replace(other, **{name: getattr(one, name) for name in names})
