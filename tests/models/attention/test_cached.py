from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m2dit_jax.models.attention import cached as module
from m2dit_jax.models.attention import chunks as attention_chunks
from m2dit_jax.models.attention.cached import ATTEND, KeyValues, attention_cached
from m2dit_jax.models.attention.cudnn import attend_even
from m2dit_jax.models.attention.dispatch import attention
from m2dit_jax.models.attention.splash import attend_padded
from m2dit_jax.models.layout import Layout

STORY = Layout(3, 2, (4, 3, 5))
GIVEN = (False, True, False)
GENERATED = Layout(2, 2, (4, 5), padding=2)


def inputs():
    """Of a story: query, key and value; the same of its generated scenes; what is cached."""
    keys = jax.random.split(jax.random.key(0), 3)
    shape = (2, STORY.tokens, 2, 8)
    whole = [jax.random.normal(key, shape) for key in keys]
    generated = []
    for x in whole:
        text, video = STORY.split_scenes(x)
        generated.append(GENERATED.join_scenes([text[0], text[2]], [video[0], video[2]]))
    return whole, generated, KeyValues(*(STORY.split_scenes(x)[1][1] for x in whole[1:]))


def expected(whole):
    out = attention(*whole, STORY, "causal", "dense", jnp.array([GIVEN] * 2))
    text, video = STORY.split_scenes(out)
    return jnp.concatenate([text[0], text[2], video[0], video[2]], axis=1)


@pytest.mark.parametrize("name", ATTEND)
def test_generated_scenes_see_what_they_see_in_the_whole_story(name, monkeypatch):
    here = {
        "splash": partial(attend_padded, interpret=True),
        "cudnn": partial(attend_even, backend="xla"),
    }
    monkeypatch.setattr(module, "ATTEND", ATTEND | here)
    monkeypatch.setattr(attention_chunks, "LOGITS_BYTES", 64)
    monkeypatch.setattr(attention_chunks, "LEAST_QUERIES", 2)
    whole, generated, cached = inputs()
    run = jax.jit(partial(attention_cached, layout=GENERATED, mask="causal", implementation=name))
    out = run(*generated, cached)
    np.testing.assert_allclose(out[:, : GENERATED.real_tokens], expected(whole), atol=1e-5)
    np.testing.assert_array_equal(out[:, GENERATED.real_tokens :], 0)


def test_long_lengths_lower_for_an_absent_tpu():
    shapes = [jax.ShapeDtypeStruct((1, n, 1, 64), jnp.bfloat16) for n in (4200, 9000, 9000)]
    text = jax.jit(attend_padded).trace(*shapes).lower(lowering_platforms=("tpu",)).as_text()
    assert text.count("tpu_custom_call") == 1
