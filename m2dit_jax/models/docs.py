"""The page of the attention masks as Markdown: pictures, where they are from, what they cost.

`python -m m2dit_jax.models.docs > docs/masks.md`, in a checkout, writes it anew.
"""

from dataclasses import replace
from itertools import groupby
from typing import NamedTuple

import numpy as np

from m2dit_jax.models.cogvideox.transformer_config import TransformerConfig
from m2dit_jax.models.flops import TRAINING_FACTOR, ForwardFlops, forward_flops, generated_flops
from m2dit_jax.models.layout import Layout
from m2dit_jax.models.masks import (
    BY_BLOCK,
    MASKS,
    block_masks,
    depends_on_given,
    key_runs,
    segment_table,
)

# CogVideoX-5B, and its scenes of 49 frames of 480x720: 13 latent frames of 30x45 patches.
FULL_SIZE = TransformerConfig(
    channels=16, patch_size=2, layers=42, heads=48, head_dim=64, text_dim=4096, time_dim=512
)
_FRAMES, _PATCHES, _TEXT = 13, 30 * 45, 226
_SCENES = (3, 12)


class _Note(NamedTuple):
    """Where a mask is from, and when to take it."""

    source: str
    text: str


_NOTES = {
    "symmetric": _Note(
        "Mask²DiT, arXiv 2503.19881, section 3.2",
        "Text is kept to its scene, all video sees all video: the default, and what released "
        "weights were trained with. Its cost grows with the square of the number of scenes.",
    ),
    "full": _Note(
        "plain joint attention, as in CogVideoX, arXiv 2408.06072",
        "No mask. Text tokens have no position, so that nothing says whose text a token is: "
        "prompts leak. With `config.model.scene_positions` text and video know the number of their "
        "scene, which makes it a fair opponent of the masks.",
    ),
    "independent": _Note(
        "the baseline of scenes made one by one",
        "The cheapest, and blind: nothing but chance makes scenes agree.",
    ),
    "first_frame": _Note(
        "HoloCine, arXiv 2510.20822, sparse inter-shot self-attention",
        "A scene sees the first frames of the others as their summary, so that the cost grows "
        "nearly in proportion to the number of scenes: for many scenes. There the keys of a "
        "scene's own first frame are counted twice; here once. Text windows as there; a global "
        "prompt is the caption that all see.",
    ),
    "every_other_frame": _Note(
        "between HoloCine's and the symmetric mask",
        "The same with every second frame: others' motion can be seen, at about half of the "
        "symmetric mask's cost. With two frames of patches in a scene it is `first_frame`.",
    ),
    "opening_frame": _Note(
        "the inner blocks of CineTrans, arXiv 2508.11484",
        "Block-diagonal: all scenes see the story's first frame, and else only themselves. A part "
        "of `block_diagonal`; by itself it hands on no more than that frame.",
    ),
    "block_diagonal": _Note(
        "CineTrans, arXiv 2508.11484, as its released settings for Wan 2.1 1.3B have it",
        "Scenes are open to each other only in the outer blocks (weak correlation between shots), "
        "block-diagonal in the inner ones: there 6 to 27 of 30, here the same shares, of few "
        "blocks at least the first. In its outer blocks CineTrans shows every scene every text "
        "too; here text stays in its window in all of them.",
    ),
    "causal": _Note(
        "this project; the order of block-causal video models, for given scenes only",
        "As symmetric, but given scenes see no generated one. For extending stories: keys and "
        "values of given scenes are computed once, and a step costs what its new scenes cost.",
    ),
}

_HEAD = """# Attention masks

Written from `m2dit_jax/models/docs.py`. A mask (`config.model.mask`) is one entry of the table in
`models/masks.py`; the dense mask, the groups of the fast paths, the codes of the kernels and the
numbers below are derived from it. Pictures are of three scenes of three frames: a row may look at
the columns with 1. t is text, v video; a, b and c are single frames where scenes see only some.

## What they cost

Operations in closed form at the size of CogVideoX-5B, scenes of 49 frames of 480x720 (13 latent
frames of 30x45 patches, 226 text tokens), in PFLOP: of attention and of all products of one
evaluation of the model, and of a training step of one story (three times that; without what remat
repeats). In brackets the share of the symmetric mask's.
"""
_CHOICE = """
## How to choose

- Weights that were trained with a mask want that mask: take another only to train with it.
- Up to about four scenes attention is affordable: `symmetric`. To extend stories again and again:
  `causal`.
- Many scenes at once: `first_frame`; `every_other_frame` if others' motion matters.
- `full`, with and without `scene_positions`, and `independent` are opponents to measure against.

`m2dit evaluate masks` trains and scores them side by side, with the same budget and seeds.
"""


def full_size_layout(scenes: int) -> Layout:
    """The tokens of a story of so many scenes at full size."""
    return Layout(scenes, _TEXT, _FRAMES * _PATCHES, frame=_PATCHES)


def to_markdown() -> str:
    """The whole page."""
    parts = [_HEAD, _costs(), _CHOICE]
    for mask in MASKS:
        note = _NOTES[mask]
        parts.append(f"\n## {mask}\n\nFrom: {note.source}.\n\n{note.text}\n\n{_drawing(mask)}\n")
    return "".join(parts)


def _costs() -> str:
    columns = ["attention", "evaluation", "training step"]
    titles = [f"{column}, {scenes} scenes" for scenes in _SCENES for column in columns]
    lines = ["", f"| mask | {' | '.join(titles)} |", "|---" * (len(titles) + 1) + "|"]
    whole = {scenes: forward_flops(FULL_SIZE, full_size_layout(scenes)) for scenes in _SCENES}
    for mask in MASKS:
        cells = []
        for scenes, symmetric in whole.items():
            config = replace(FULL_SIZE, mask=mask)
            cells += _cells(forward_flops(config, full_size_layout(scenes)), symmetric)
        lines.append(f"| {mask} | {' | '.join(cells)} |")
    cells = []
    for scenes, symmetric in whole.items():
        config = replace(FULL_SIZE, mask="causal")
        cached = generated_flops(config, full_size_layout(scenes), scenes - 1)
        cells += [*_cells(cached, symmetric)[:2], "-"]
    lines.append(f"| causal, the last scene with its cache | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cells(forward: ForwardFlops, symmetric: ForwardFlops) -> list[str]:
    pairs = (
        (forward.attention, symmetric.attention),
        (forward.total, symmetric.total),
        (TRAINING_FACTOR * forward.total, TRAINING_FACTOR * symmetric.total),
    )
    return [f"{flops / 1e15:.3g} ({flops / one:.3f})" for flops, one in pairs]


def _drawing(mask: str) -> str:
    if mask in BY_BLOCK:
        blocks = groupby(block_masks(mask, 30))
        counts = [f"{len(list(same))} `{name}`" for name, same in blocks]
        return f"Of 30 blocks, one after the other: {', '.join(counts)}; their pictures are there."
    layout = Layout(3, 1, 3, padding=1, frame=1)
    given = np.array([True, False, False]) if depends_on_given(mask) else None
    table = np.asarray(segment_table(layout, mask, given))
    rows = ["t0", "t1", "t2", "v0", "v1", "v2", "p"]
    columns = _column_names(layout, mask, rows)
    head = " " * 3 + " ".join(columns)
    lines = [
        f"{row:<3}"
        + " ".join(f"{int(x):>{len(name)}}" for x, name in zip(of, columns, strict=True))
        for row, of in zip(rows, table, strict=True)
    ]
    title = "Scene 0 is given:\n\n" if given is not None else ""
    return title + "\n".join("    " + line for line in (head, *lines))


def _column_names(layout: Layout, mask: str, rows: list[str]) -> list[str]:
    """The name of each column: that of its segment, or of its frames."""
    names, frame = [], {segment: 0 for segment in range(len(rows))}
    for length, segment in zip(*key_runs(layout, mask), strict=True):
        if length == layout.segment_lengths[segment]:
            names.append(rows[segment])
        else:
            names.append("abc"[frame[segment] :][:length] + rows[segment][1:])
            frame[segment] += length
    return names


if __name__ == "__main__":
    print(to_markdown(), end="")
