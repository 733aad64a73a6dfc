"""A YAML or JSON file as a tree of values that know their lines.

Both are read through the YAML node tree, since it knows the line of every value.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from m2dit_jax.utils.files import check_file
from m2dit_jax.utils.options import shown

MAX_FILE_BYTES = 1_000_000


class StoryboardError(ValueError):
    """All that is wrong with a storyboard, a line each: `file:line: field: found, needed`."""


@dataclass(frozen=True)
class Item:
    """A value and the line it starts on (None outside a file).

    A list holds items; a mapping is a tuple of (key item, value item), so that a duplicate stays.
    """

    value: Any
    line: int | None

    def plain(self) -> Any:
        """The value without lines; of duplicate keys, and of keys that are no text, the last."""
        match self.value:
            case list():
                return [item.plain() for item in self.value]
            case tuple():
                return {str(key.plain()): value.plain() for key, value in self.value}
            case _:
                return self.value


class _Loader(yaml.BaseLoader):
    """Composes nodes without building any object, and refuses what a storyboard has no use for."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        # an alias can make a small file expand without end; a tag can ask for a Python object
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise yaml.MarkedYAMLError(
                problem="found an anchor or alias (& or *), write the value out, or quote the text",
                problem_mark=event.start_mark,
            )
        if getattr(event, "tag", None) is not None:
            raise yaml.MarkedYAMLError(
                problem=f"found the tag {shown(event.tag)}, needs a plain value, or quotes around",
                problem_mark=event.start_mark,
            )
        return super().compose_node(parent, index)


def read_text(path: Path) -> str:
    """Text of a storyboard file. Raises StoryboardError if it is no text, or too large."""
    try:
        check_file(path)
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        reason = getattr(error, "strerror", None) or str(error).removeprefix(f"{path}: ")
        raise StoryboardError(f"{path}: cannot be read ({reason})") from error
    if len(data) > MAX_FILE_BYTES:
        raise StoryboardError(f"{path}: larger than {MAX_FILE_BYTES} bytes, not a storyboard")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise StoryboardError(
            f"{path}:{line}: byte 0x{data[error.start]:02x} is not UTF-8, needs UTF-8 text"
        ) from error


def parse(text: str, source: str) -> Item:
    """Tree of a file's text. Raises StoryboardError when the text is neither YAML nor JSON."""
    try:
        node = yaml.compose(_yaml_from_json(text), Loader=_Loader)
        return Item(None, 1) if node is None else _from_node(node)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        reason = f"character {shown(text[error.position])} is not allowed"
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = 1 if mark is None else mark.line + 1
        reason = error.problem or error.context
    except RecursionError:
        line, reason = 1, "nested too deeply"
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # an escape beyond Unicode
        line, reason = 1, error
    raise StoryboardError(f"{source}:{line}: not YAML or JSON: {reason}")


def _yaml_from_json(text: str) -> str:
    """Makes JSON into YAML, line by line; other text stays as it is.

    The one thing of JSON that the YAML reader refuses is a tab between values. JSON has no bare tab
    within a string, so that in a text which is JSON every tab may become a space.
    """
    if "\t" not in text:
        return text
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return text
    return text.replace("\t", " ")


def _from_node(node: yaml.Node) -> Item:
    line = node.start_mark.line + 1
    match node:
        case yaml.MappingNode():
            return Item(tuple((_from_node(k), _from_node(v)) for k, v in node.value), line)
        case yaml.SequenceNode():
            return Item([_from_node(child) for child in node.value], line)
        case yaml.ScalarNode(style=None):
            return Item(_plain_value(node.value), line)
        case _:
            return Item(node.value, line)


def from_value(value: Any) -> Item:
    """Tree of a value that comes from no file."""
    match value:
        case Mapping():
            return Item(tuple((from_value(k), from_value(v)) for k, v in value.items()), line=None)
        case list() | tuple():
            return Item([from_value(child) for child in value], line=None)
        case _:
            return Item(value, line=None)


_INT = re.compile(r"[-+]?[0-9]{1,4000}")  # Python itself refuses to read an int much longer
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?(\.inf|\.Inf|\.INF|Infinity)|\.nan|\.NaN|\.NAN|NaN")


def _plain_value(text: str) -> Any:
    """An unquoted value by the rules of YAML 1.2, which are JSON's.

    PyYAML's own rules are those of YAML 1.1: there `yes` is a bool, 010 is 8, and 1e3 is text.
    """
    if text in ("", "~", "null", "Null", "NULL"):
        return None
    if text in ("true", "True", "TRUE", "false", "False", "FALSE"):
        return text.lower() == "true"
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _NOT_FINITE.fullmatch(text):
        return float(text.replace(".", ""))
    return text
