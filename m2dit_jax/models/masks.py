"""Who may attend to whom: the paper's symmetric mask and those that it is compared with."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from m2dit_jax.models.layout import Layout

Codes = Int[np.ndarray | Array, "*#shape"]

# Those that depend on the layout alone.
STATIC_MASKS = ("symmetric", "full", "independent")
MASKS = (*STATIC_MASKS, "causal")


def scene_mask(
    layout: Layout, variant: str = "symmetric", given: Bool[np.ndarray | Array, " S"] | None = None
) -> Bool[Array, "L L"]:
    """The attention mask over the joint sequence; True = row (query) may attend to column (key).

    `symmetric` (Mask²DiT, section 3.2): text_i and video_i see each other and themselves, and all
    video sees all video. Padding sees padding, so that no row is empty, and no other token sees it.
    For two scenes of one text and one video token each, and one token of padding:

            t0 t1 v0 v1 p
        t0   1  0  1  0 0
        t1   0  1  0  1 0
        v0   1  0  1  1 0
        v1   0  1  1  1 0
        p    0  0  0  0 1

    `full`: everything sees everything but padding. `independent`: each scene is alone.

    `causal`: as symmetric, but tokens of a `given` scene see no tokens of a generated one. So what
    the model makes of given scenes stays the same while others are generated. If scene 0 is given:

            t0 t1 v0 v1 p
        t0   1  0  1  0 0
        t1   0  1  0  1 0
        v0   1  0  1  0 0
        v1   0  1  1  1 0
        p    0  0  0  0 1

    Under the symmetric and the causal mask global text (`Layout`) sees and is seen by all video, as
    if it were some of it; other text neither sees it nor is seen. `given` has an entry for it too,
    and it must be true for the causal mask to leave what is given constant.

    Other masks ignore `given`. Raises ValueError if the causal one is not told.
    """
    codes = jnp.asarray(token_codes(layout, variant))
    mask = jnp.asarray(sees(codes[:, None], codes[None, :]))
    if variant != "causal":
        return mask
    check_given(variant, given)
    of_given = given_tokens(layout, jnp.asarray(given)[None])[0]
    return mask & (of_given[None, :] | ~of_given[:, None])


def given_tokens(layout: Layout, given: Bool[Array, "B S"]) -> Bool[Array, "B L"]:
    """Whether each token of the joint sequence is of a given scene; padding is of none."""
    no_scene = jnp.zeros((given.shape[0], 1), bool)
    return jnp.concatenate([given, no_scene], axis=1)[:, layout.scene_ids()]


def allowed(
    rows: Int[Array, "*#shape"], columns: Int[Array, "*#shape"], layout: Layout, variant: str
) -> Bool[Array, "*shape"]:
    """`scene_mask` at the given positions, which broadcast against each other and may be traced.

    Positions beyond the joint sequence see each other and nothing else.
    """
    seen = sees(codes_at(rows, layout, variant), codes_at(columns, layout, variant))
    return jnp.asarray(seen)


def sees(rows: Codes, columns: Codes) -> Bool[np.ndarray | Array, "*shape"]:
    """Whether tokens of one code may attend to those of another: the one definition.

    Tokens of the same pair of codes (2i, 2i + 1) see each other, and so do all tokens of odd codes.
    """
    return ((rows ^ columns) < 2) | ((rows & columns & 1) == 1)


def segment_codes(
    scenes: int, variant: str, global_text: bool = False
) -> Int[np.ndarray, " segments"]:
    """The code of each segment (`Layout`), of the padding, and of what lies beyond it.

    Those of `causal` are the symmetric ones: which scenes are given comes on top of them.
    Raises ValueError if there is no mask of that name, or it has no place for global text.
    """
    check_mask(variant)
    if global_text:
        check_global_text(variant)
    pair = np.arange(scenes)
    text, video = {
        "symmetric": (2 * pair, 2 * pair + 1),
        "causal": (2 * pair, 2 * pair + 1),
        "independent": (2 * pair, 2 * pair),
        "full": (0 * pair, 0 * pair),
    }[variant]
    if global_text:
        text = np.append(video[:1], text[1:])
    return np.concatenate([text, video, [2 * scenes, 2 * scenes + 2]]).astype(np.int32)


def token_codes(layout: Layout, variant: str) -> Int[np.ndarray, " L"]:
    """The code of each token of the joint sequence."""
    return segment_codes(layout.scenes, variant, layout.global_text)[layout.segments()]


def codes_at(positions: Int[Array, "*shape"], layout: Layout, variant: str) -> Int[Array, "*shape"]:
    """The code of the token at each position, which may be traced.

    Comparisons and selections only: a TPU kernel does this for every block of keys.
    """
    segments = segment_codes(layout.scenes, variant, layout.global_text)
    codes = jnp.full_like(positions, segments[0])
    starts = (*layout.segment_starts, layout.tokens)
    for segment, start in enumerate(starts):
        if segments[segment] != segments[max(segment - 1, 0)]:
            codes = jnp.where(positions >= start, segments[segment], codes)
    return codes


def check_mask(variant: str) -> None:
    """Raises ValueError if there is no mask of that name."""
    if variant not in MASKS:
        raise ValueError(f"unknown attention mask {variant!r}; there are {', '.join(MASKS)}")


def check_global_text(variant: str) -> None:
    """Raises ValueError if the mask has no place for text that all scenes see."""
    if variant == "independent":
        raise ValueError(
            "under the attention mask 'independent' scenes share nothing: there can be no global "
            "prompt"
        )


def check_given(variant: str, given: object) -> None:
    """Raises ValueError if the mask needs to know which scenes are given and is not told."""
    if variant == "causal" and given is None:
        raise ValueError("the attention mask 'causal' needs to know which scenes are `given`")
