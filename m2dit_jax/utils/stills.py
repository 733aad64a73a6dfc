"""Pictures from files, as viewers show them."""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("PNG", "JPEG", "WEBP")
MOST_PIXELS = 100_000_000


class StillError(ValueError):
    """A file is no picture that can be shown rightly; the message names it and says why."""


def read_still(path: Path) -> UInt8[np.ndarray, "H W 3"]:
    """The picture of a file, turned as its EXIF says, on white where it is transparent.

    Raises StillError for files that are none of FORMATS, that are damaged, hold several pictures
    or more than 8 bits of a colour, or have more than MOST_PIXELS pixels.
    """
    try:
        with Image.open(path, formats=FORMATS) as picture:
            _check(path, picture)
            shown = ImageOps.exif_transpose(picture).convert("RGBA")
    except UnidentifiedImageError:
        raise StillError(f"{path}: needs a picture, one of {', '.join(FORMATS)}") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, StillError):
            raise
        raise StillError(f"{path}: cannot be read as a picture ({error})") from error
    ground = Image.new("RGBA", shown.size, "white")
    return np.asarray(Image.alpha_composite(ground, shown).convert("RGB"))


def _check(path: Path, picture: Image.Image) -> None:
    if (count := getattr(picture, "n_frames", 1)) > 1:
        raise StillError(f"{path}: holds {count} pictures, needs one")
    if picture.mode.startswith(("I", "F")):
        raise StillError(f"{path}: has more than 8 bits of a colour ({picture.mode}), needs 8")
    if (pixels := picture.width * picture.height) > MOST_PIXELS:
        raise StillError(f"{path}: has {pixels} pixels, needs at most {MOST_PIXELS}")
