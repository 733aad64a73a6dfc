"""Damage to inputs: odd values in trees, odd text, odd bytes, odd files. Drawn from one Random."""

import copy
import json
import os
from pathlib import Path
from random import Random
from typing import Any

import yaml

# Text that stands for what a dump could not write: it is put in afterwards.
_DEEP, _LONG_NUMBER = "@deep@", "@long@"
ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 1.5, -0.5, float("nan"), float("inf"), -float("inf")),
    *(10**9, 2**31, 2**32, 2**63, 10**30, -(2**31), 1e300, 5e-324, _LONG_NUMBER),
    *("", " ", "x", "1", "1e5", "0x10", "\0", "a\nb", "é" * 1000, "\ud83e", "狐\u202e\u200b"),
    *("../../../etc/passwd", "/dev/zero", ".", "2026-11-27", "no", "%s{0}", "<b>", "x" * 10**5),
    *([], {}, [1], [[]], {"a": 1}, [None] * 1000, {"": ""}, _DEEP),
)
_ODD_TEXT = (
    *("\0", "\t", "\r\n", "\ufeff", "\u2028", "\x85", "{", "}", "[", "]", '"', "'", ":", ",", "#"),
    *("- ", "? ", "| ", "> ", "&a ", "*a ", "!!python/object:os.system ", "<<: ", "%YAML 9\n"),
    *("---\n", "...\n", "2026-11-27", ".inf", "NaN", "-", "1_000", "\\ud800", "\\", "😀"),
)
_ODD_BYTES = (b"\xff", b"\xfe\xff", b"\x00" * 16, b"\xc3", b"\xed\xa0\x80", b"\x80", b"PK\x03\x04")
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


def odd_tree(tree: Any, random: Random) -> Any:
    """A copy of the tree with one to three of its places changed to what does not belong there."""
    root = [copy.deepcopy(tree)]
    for _ in range(random.randint(1, 3)):
        places = list(_places(root))
        holder, key = random.choice(places)
        match random.randrange(6):
            case 0 if isinstance(holder, dict):
                del holder[key]
            case 1 if isinstance(holder, dict):
                name = random.choice(("x", "", str(key)[:-1], f"{key}s", str(key).upper()))
                holder[name] = holder.pop(key)
            case 2 if holder is not root:
                holder[key] = [holder[key]]
            case 3 if isinstance(holder[key], int | float):
                holder[key] = holder[key] * random.choice((-1, 0.1, 2, 1000, 10**12))
            case _:
                holder[key] = copy.deepcopy(random.choice(ODD_VALUES))
    return root[0]


def _places(holder: Any) -> Any:
    """Every (dict or list, key) below."""
    for key in list(holder) if isinstance(holder, dict) else range(len(holder)):
        yield holder, key
        if isinstance(holder[key], dict | list):
            yield from _places(holder[key])


def dump_json(tree: Any) -> str:
    """JSON of an odd tree, with NaN and what json itself would not write."""
    return _filled(json.dumps(tree, indent=_indent(tree)))


def dump_yaml(tree: Any) -> str:
    """YAML of an odd tree."""
    return _filled(yaml.safe_dump(tree, allow_unicode=True))


def _indent(tree: Any) -> int | None:
    """Small trees over several lines, as people write them."""
    return 1 if len(str(tree)) < 10_000 else None


def _filled(text: str) -> str:
    for quote in ('"', "'", ""):
        text = text.replace(f"{quote}{_DEEP}{quote}", "[" * 20_000 + "]" * 20_000)
        text = text.replace(f"{quote}{_LONG_NUMBER}{quote}", "9" * 5000)
    return text


def odd_text(text: str, random: Random) -> bytes:
    """The text with lines lost, doubled or swapped and odd pieces in it; rarely not UTF-8."""
    for _ in range(random.randint(1, 3)):
        lines = text.splitlines(keepends=True) or [""]
        place = random.randrange(len(lines))
        match random.randrange(5):
            case 0:
                del lines[place]
            case 1:
                lines.insert(place, lines[random.randrange(len(lines))])
            case _:
                at = random.randrange(len(lines[place]) + 1)
                lines[place] = f"{lines[place][:at]}{random.choice(_ODD_TEXT)}{lines[place][at:]}"
        text = "".join(lines)
    if random.random() < 0.05:
        text = BOMB + text
    data = text.encode("utf-8", "surrogatepass")
    return odd_bytes(data, random) if random.random() < 0.2 else data


def odd_bytes(data: bytes, random: Random) -> bytes:
    """The bytes with some flipped, lost, doubled or put in; half of the places near the start."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 8))):
        end = len(changed) if random.random() < 0.5 else min(len(changed), 512)
        at = random.randrange(end + 1)
        match random.randrange(5):
            case 0:
                del changed[at:]
            case 1:
                del changed[at : at + random.randint(1, 64)]
            case 2:
                changed[at:at] = random.choice(_ODD_BYTES)
            case _ if changed:
                at = min(at, len(changed) - 1)
                changed[at] = random.randrange(256) if at % 2 else changed[at] ^ 1 << at % 8
    return bytes(changed)


def odd_file(path: Path, random: Random) -> str:
    """Puts no file, an empty one, a folder, a pipe or an endless device in the file's place."""
    path.unlink()
    kind = random.choice(("missing", "empty", "folder", "pipe", "endless"))
    if kind == "empty":
        path.touch()
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "endless":
        path.symlink_to("/dev/zero")
    return kind
