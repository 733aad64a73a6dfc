"""A page that shows what is in an encoded dataset: one HTML file that needs nothing else."""

import base64
import io
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from m2dit_jax.data.encoded import EncodedDataset, EncodedStory, Skipped, count_kinds
from m2dit_jax.utils.files import atomic_write

PAGE = "preview.html"
_STORIES = 12  # shown in pictures
_FRAMES = 8  # of a scene, from the first to the last
_SKIPPED = 500  # listed one by one; the counts are of all
_SIDE = 128  # pixels: short side of a picture, at least; larger ones are shown at most twice that
_STYLE = """
body { font: 15px/1.4 sans-serif; margin: 2em; max-width: 90em; }
h2 { margin: 1.5em 0 0.3em; } h2 small { color: #777; font-weight: normal; }
.scene { display: flex; gap: 1em; margin: 0.4em 0; align-items: flex-start; }
.text { width: 22em; flex: none; overflow-wrap: anywhere; } .text p { margin: 0 0 0.4em; }
.frames { display: flex; gap: 3px; flex-wrap: wrap; } .frames img { display: block; }
.note, details { color: #777; font-size: 85%; } .cut { color: #b00; }
table { border-collapse: collapse; margin: 0.6em 0; } td, th { padding: 0.1em 0.8em 0.1em 0; }
th { text-align: left; vertical-align: top; } pre { white-space: pre-wrap; }
"""


class _View(NamedTuple):
    """How a dataset's scenes and captions are shown, and what there is to say about it."""

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
    shown = range(min(_STORIES, len(dataset)))
    stories = []
    for number in shown:
        print(f"story {number + 1} of {len(shown)}", file=sys.stderr)
        stories.append(_story(dataset[number], view))
    title = f"{len(dataset)} stories in {path}"
    page = [
        "<!doctype html>",
        f'<html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>',
        # Nothing from elsewhere, whatever a manifest may hold.
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">",
        f"<style>{_STYLE}</style>",
        f"<h1>{escape(title)}</h1>",
        _statistics(dataset),
        f"<p class=note>{escape(view.note)}</p>" if view.note else "",
        *stories,
        f"<p class=note>The first {len(shown)} of {len(dataset)} stories.</p>",
    ]
    target = path / PAGE
    with atomic_write(target) as part:
        # Names of files need not be UTF-8, see `encoded.write_json`.
        part.write_bytes("\n".join(filter(None, page)).encode(errors="backslashreplace"))
    return target


# --- pictures


def _pixels_view() -> _View:
    return _View(lambda story, scene: _of(story, "pixels")[scene], str, "")


def _of(story: EncodedStory, name: str) -> np.ndarray:
    """An array that the dataset's codec has."""
    return cast(dict[str, Any], story)[name]


def _vae_view(dataset: EncodedDataset) -> _View:
    # Not at the top: for pixels neither jax nor a network is needed.
    import jax.numpy as jnp
    from flax import nnx

    from m2dit_jax.data.encode.codecs import NETWORKS_USED
    from m2dit_jax.data.tokenizer import pad_or_truncate
    from m2dit_jax.models.coding import Vae
    from m2dit_jax.models.pixels import decode_pixels
    from m2dit_jax.weights.fingerprint import fingerprint
    from m2dit_jax.weights.released import ReleasedModel

    folder = Path(dataset.settings["model"])
    try:
        model = ReleasedModel(folder)
        if fingerprint(folder, NETWORKS_USED) != dataset.settings["weights"]:
            raise ValueError(f"{folder}: has changed since")
        tokenizer = model.tokenizer()
        vae: Vae = nnx.merge(*model.vae())
    except (ValueError, OSError) as error:
        note = (
            "The latents are shown as they are, three channels of the means as colours, and the "
            f"captions as they were given, since the model cannot be read: {error}"
        )
        return _View(lambda story, scene: _latent_picture(_of(story, "mean")[scene]), str, note)

    def frames(story: EncodedStory, scene: int) -> UInt8[np.ndarray, "F H W 3"]:
        latents = jnp.asarray(_of(story, "mean")[scene], jnp.float32)[None]
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


def _inline(image: UInt8[np.ndarray, "H W 3"]) -> str:
    """An img element that holds the picture itself."""
    height, width = image.shape[:2]
    picture = Image.fromarray(image)
    factor = _SIDE / min(height, width)
    if factor < 0.5:
        size = round(2 * factor * width), round(2 * factor * height)
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    # JPEG smears the edges of the smallest pictures, which are small as PNG too.
    kind = "png" if min(height, width) <= 32 else "jpeg"
    picture.save(buffer, kind, **({} if kind == "png" else {"quality": 85}))
    data = base64.b64encode(buffer.getvalue()).decode()
    zoom = max(factor, 1)
    style = f"width:{round(picture.width * zoom)}px" + (
        ";image-rendering:pixelated" if kind == "png" else ""
    )
    return f'<img alt="" style="{style}" src="data:image/{kind};base64,{data}">'


# --- parts of the page


def _story(story: EncodedStory, view: _View) -> str:
    scenes = [_scene(story, number, view) for number in range(len(story["captions"]))]
    many = f"{len(scenes)} scenes" if len(scenes) > 1 else "1 scene"
    return f"<h2>{escape(story['name'])} <small>{many}</small></h2>\n" + "\n".join(scenes)


def _scene(story: EncodedStory, number: int, view: _View) -> str:
    frames = view.frames(story, number)
    chosen = np.linspace(0, len(frames) - 1, min(_FRAMES, len(frames))).round().astype(int)
    origin = story["origins"][number]
    source = origin["source"]
    where = (
        f"scene {origin['scene']}: {origin['video']}{_times(origin)}, "
        f"{source.get('width')} x {source.get('height')}, {source.get('fps', 0):.5g} fps, "
        f"frames {_few(origin['frames'])}"
    )
    metadata = "".join(f"\n{key}: {value}" for key, value in origin["metadata"].items())
    return (
        "<div class=scene><div class=text>"
        f"<p>{escape(view.caption(story['captions'][number]))}</p>"
        f"<details><summary>{escape(where)}</summary>"
        f"<pre>{escape(origin['place'] + metadata)}</pre></details></div>"
        f"<div class=frames>{''.join(_inline(frames[i]) for i in chosen)}</div></div>"
    )


def _times(origin: Mapping[str, Any]) -> str:
    start, end = origin["start"], origin["end"]
    if start is None and end is None:
        return ""
    return f" from {start or 0:g} s to {'its end' if end is None else f'{end:g} s'}"


def _few(numbers: Sequence[int]) -> str:
    shown = [str(number) for number in numbers]
    return ", ".join(shown if len(shown) <= 4 else [*shown[:2], "…", shown[-1]])


def _statistics(dataset: EncodedDataset) -> str:
    info, counts = dataset.info, dataset.scene_counts
    skipped = dataset.skipped()
    statistics = dataset.statistics
    rows = {
        "stories": str(len(dataset)),
        "scenes": f"{sum(counts)} ({info.kind}); a story has {_ranges(Counter(counts))}",
        "a scene": f"{info.frames} frames of {info.height} x {info.width} (height x width)",
        "codec": info.codec
        if info.codec == "pixels"
        else f"vae, latents {info.latent_shape}, scaling factor {info.scaling_factor}",
        "sampling": f"{dataset.settings['sampling']}, stride {dataset.settings['stride']}",
        "videos' sizes (width x height)": _frequent(statistics["size"]),
        "videos' frames per second": _frequent(statistics["fps"]),
        "videos' seconds": _ranges(_numbers(statistics["seconds"])),
        "words in a caption": _ranges(_numbers(statistics["words"])),
        "skipped scenes": str(len(skipped)),
    }
    table = "".join(f"<tr><th>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in rows.items())
    return f"<table>{table}</table>" + (_skipped(skipped) if skipped else "")


def _skipped(items: Sequence[Skipped]) -> str:
    kinds = "".join(
        f"<tr><td>{count}</td><td>{escape(kind)}</td></tr>"
        for kind, count in count_kinds(items).items()
    )
    each = "".join(
        f"<tr><td>{escape(item['place'])}</td><td>{escape(item['video'])}</td>"
        f"<td>{escape(item['reason'])}</td></tr>"
        for item in items[:_SKIPPED]
    )
    more = f"<p>and {len(items) - _SKIPPED} more</p>" if len(items) > _SKIPPED else ""
    return (
        f"<h3>Skipped</h3><table>{kinds}</table>"
        f"<details><summary>each of them</summary><table>{each}</table>{more}</details>"
    )


def _numbers(counts: Mapping[str, int]) -> Counter[int]:
    return Counter({int(value): count for value, count in counts.items()})


def _ranges(counts: Counter[int]) -> str:
    """Least, median and most of numbers that occur so many times."""
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
