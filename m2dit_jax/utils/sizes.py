"""Numbers of bytes in words."""

_UNITS = (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3))


def size_text(nbytes: int | float) -> str:
    """The number in the largest unit that it fills, such as "1.34 GB", "30.2 kB" or "12 bytes"."""
    for unit, size in _UNITS:
        if nbytes >= 0.99995 * size:  # below, the smaller unit does not round up to it
            share = nbytes / size
            return f"{share:.{2 if share < 9.995 else 1}f} {unit}"
    return f"{nbytes:.0f} byte{'' if nbytes == 1 else 's'}"
