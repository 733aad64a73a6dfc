"""The page of an encoded dataset: one HTML file with pictures, captions and statistics."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from m2dit_jax.data.encoded import EncodedDataset, EncodedStory, count_kinds
from m2dit_jax.report.document import image_uri, write_document
from m2dit_jax.utils.frame_times import evenly_spaced
from m2dit_jax.utils.progress import progress_bar

PAGE = "preview.html"
_STORIES = 12  # shown in pictures
_FRAMES = 8  # of a scene, from the first to the last
_SKIPPED = 500  # listed one by one; the counts are of all
_SIDE = 128  # pixels: short side of a picture, at least; larger ones are shown at most twice that


class _View(NamedTuple):
    """The functions that make frames and captions of a dataset, and a note about them."""

    frames: Callable[[EncodedStory, int], UInt8[np.ndarray, "F H W 3"]]
    caption: Callable[[str], str]
    note: str


def write_preview(path: Path) -> Path:
    """Writes the page into the dataset's folder and returns its path.

    A VAE's latents are decoded if the model is still where it was; else they are shown as they
    are, three channels as colours. Raises EncodedError if the folder is no finished dataset.
    """
    dataset = EncodedDataset(path)
    view = _pixels_view() if dataset.info.codec == "pixels" else _vae_view(dataset)
    shown = min(_STORIES, len(dataset))
    skipped = dataset.skipped()
    target = path / PAGE
    write_document(
        target,
        "dataset.html",
        title=f"{len(dataset)} stories in {path}",
        statistics=_statistics(dataset),
        skipped=skipped,
        skipped_kinds=count_kinds(skipped),
        listed=_SKIPPED,
        note=view.note,
        stories=_stories(dataset, shown, view),
        shown=shown,
        total=len(dataset),
    )
    return target


# --- pictures


def _pixels_view() -> _View:
    return _View(lambda story, scene: _array(story, "pixels")[scene], str, "")


def _array(story: EncodedStory, name: str) -> np.ndarray:
    """An array of a story, which a dataset has with some codecs only."""
    return cast(dict[str, Any], story)[name]


def _vae_view(dataset: EncodedDataset) -> _View:
    # Not at the top: for pixels neither jax nor a network is needed.
    import jax.numpy as jnp
    from flax import nnx

    from m2dit_jax.data.encode.codecs import CONTENT, NETWORKS_USED
    from m2dit_jax.data.tokenizer import pad_or_truncate
    from m2dit_jax.models.coding import Vae
    from m2dit_jax.models.pixels import decode_pixels
    from m2dit_jax.weights.fingerprint import content_fingerprint, fingerprint
    from m2dit_jax.weights.released import ReleasedModel

    folder = Path(dataset.settings["model"])
    try:
        model = ReleasedModel(folder)
        if fingerprint(folder, NETWORKS_USED) != dataset.settings["weights"]:
            raise ValueError(f"{folder}: has changed since")
        content = dataset.settings.get(CONTENT)
        if content not in (None, content_fingerprint(folder, NETWORKS_USED)):
            raise ValueError(f"{folder}: has changed since")
        tokenizer = model.tokenizer()
        vae: Vae = nnx.merge(*model.vae())
    except (ValueError, OSError) as error:
        note = (
            "The latents are shown as they are, three channels of the means as colours, and the "
            f"captions as they were given, since the model cannot be read: {error}"
        )
        return _View(lambda story, scene: _latent_picture(_array(story, "mean")[scene]), str, note)

    def frames(story: EncodedStory, scene: int) -> UInt8[np.ndarray, "F H W 3"]:
        latents = jnp.asarray(_array(story, "mean")[scene], jnp.float32)[None]
        parts = [np.asarray(decode_pixels(part[0])) for part in vae.decode_stream(latents)]
        return np.concatenate(parts)

    def caption(text: str) -> str:
        ids = tokenizer(text, verbose=False)["input_ids"]
        kept = pad_or_truncate(tokenizer, ids, model.text_length)
        read = cast(str, tokenizer.decode(kept.tolist(), skip_special_tokens=True))
        return read if len(ids) <= model.text_length else f"{read} …"

    note = (
        f"Frames are what the VAE of {folder} decodes from the means; captions are what its "
        "tokenizer makes of them, … where a caption is longer than the model reads."
    )
    return _View(frames, caption, note)


def _latent_picture(mean: np.ndarray) -> UInt8[np.ndarray, "F H W 3"]:
    """The first three channels (gray if there are fewer), each stretched over its own range."""
    values = mean.astype(np.float32)[..., :3]
    if values.shape[-1] < 3:
        values = values[..., :1].repeat(3, axis=-1)
    return _stretched(values)


def _stretched(values: Float[np.ndarray, "F H W 3"]) -> UInt8[np.ndarray, "F H W 3"]:
    low, high = values.min((0, 1, 2)), values.max((0, 1, 2))
    return ((values - low) / np.maximum(high - low, 1e-6) * 255).round().astype(np.uint8)


def _picture(image: UInt8[np.ndarray, "H W 3"]) -> dict[str, str]:
    """The picture as a data URI, and the style that enlarges small ones."""
    height, width = image.shape[:2]
    picture = Image.fromarray(image)
    factor = _SIDE / min(height, width)
    if factor < 0.5:
        size = round(2 * factor * width), round(2 * factor * height)
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    style = f"width:{round(picture.width * max(factor, 1))}px"
    # JPEG smears the edges of the smallest pictures, which are small as PNG too.
    if min(height, width) <= 32:
        return {"uri": image_uri(picture, "png"), "style": f"{style};image-rendering:pixelated"}
    return {"uri": image_uri(picture, quality=85), "style": style}


# --- parts of the page


def _stories(dataset: EncodedDataset, shown: int, view: _View) -> Iterator[dict[str, Any]]:
    """The first stories, each made when it is written: only one is in memory."""
    with progress_bar(shown, "preview", "stories") as progress:
        for number in range(shown):
            story = dataset[number]
            scenes = [_scene(story, scene, view) for scene in range(len(story["captions"]))]
            yield {"name": story["name"], "scenes": scenes}
            progress.update()


def _scene(story: EncodedStory, number: int, view: _View) -> dict[str, Any]:
    frames = view.frames(story, number)
    origin = story["origins"][number]
    source = origin["source"]
    metadata = "".join(f"\n{key}: {value}" for key, value in origin["metadata"].items())
    return {
        "caption": view.caption(story["captions"][number]),
        "origin": f"scene {origin['scene']}: {origin['video']}{_times(origin)}, "
        f"{source.get('width')} x {source.get('height')}, {source.get('fps', 0):.5g} fps, "
        f"frames {_few(origin['frames'])}",
        "details": origin["place"] + metadata,
        "frames": [_picture(frames[i]) for i in evenly_spaced(len(frames), _FRAMES)],
    }


def _times(origin: Mapping[str, Any]) -> str:
    start, end = origin["start"], origin["end"]
    if start is None and end is None:
        return ""
    return f" from {start or 0:g} s to {'its end' if end is None else f'{end:g} s'}"


def _few(numbers: Sequence[int]) -> str:
    shown = [str(number) for number in numbers]
    return ", ".join(shown if len(shown) <= 4 else [*shown[:2], "…", shown[-1]])


def _statistics(dataset: EncodedDataset) -> dict[str, str]:
    info, counts = dataset.info, dataset.scene_counts
    statistics = dataset.statistics
    return {
        "stories": str(len(dataset)),
        "scenes": f"{sum(counts)} ({info.kind}); a story has {_ranges(Counter(counts))}",
        "a scene": f"{info.frames} frames of {info.height} x {info.width} (height x width)",
        "codec": info.codec
        if info.codec == "pixels"
        else f"vae, latents {info.latent_shape}, scaling factor {info.scaling_factor}",
        "sampling": f"{dataset.settings['sampling']}, stride {dataset.settings['stride']}"
        + (f" at {dataset.settings['fps']} frames a second" if "fps" in dataset.settings else ""),
        "videos' sizes (width x height)": _frequent(statistics["size"]),
        "videos' frames per second": _frequent(statistics["fps"]),
        "videos' seconds": _ranges(_numbers(statistics["seconds"])),
        "words in a caption": _ranges(_numbers(statistics["words"])),
        "skipped scenes": str(len(dataset.skipped())),
    }


def _numbers(counts: Mapping[str, int]) -> Counter[int]:
    return Counter({int(value): count for value, count in counts.items()})


def _ranges(counts: Counter[int]) -> str:
    """Least, median and most of numbers, given how often each occurs."""
    values: Iterable[int] = sorted(counts)
    total, seen, median = counts.total(), 0, 0
    for value in values:
        seen += counts[value]
        median = value
        if 2 * seen >= total:
            break
    return f"{min(counts)} to {max(counts)}, median {median}" if len(counts) > 1 else f"{median}"


def _frequent(counts: Mapping[str, int]) -> str:
    first = Counter(counts).most_common(8)
    rest = sum(counts.values()) - sum(count for _, count in first)
    return ", ".join([f"{value} ({count})" for value, count in first]) + (
        f", others ({rest})" if rest else ""
    )
