"""What disks, cables and memory do to files."""

import random


def damaged(content: bytes, rng: random.Random) -> bytes:
    """The content with one flipped bit, a stretch of zeros, or its end cut off."""
    if not content:
        return content
    changed, place = bytearray(content), rng.randrange(len(content))
    kind = rng.choice(["flip", "flip", "zero", "cut"])
    if kind == "flip":
        changed[place] ^= 1 << rng.randrange(8)
    elif kind == "zero":
        end = min(len(content), place + rng.choice([1, 16, 512, 4096]))
        changed[place:end] = bytes(end - place)
    else:
        del changed[place:]
    return bytes(changed)
