"""The leak meter: how far a scene's prompt reaches into other scenes.

Mask²DiT's mask lets text_i touch video_i alone, but all video sees all video: from the second layer
on a prompt may reach other scenes through its own. How much it does is measured in three ways: by
what comes out when one prompt is another, finished and in a single evaluation, and by gradients.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int
from PIL import Image

from m2dit_jax.config.recipe import Recipe, make_transformer_config
from m2dit_jax.diffusion.options import SamplingOptions
from m2dit_jax.evaluation.accuracy import global_prompts, world_of
from m2dit_jax.models.masks import block_masks
from m2dit_jax.models.network import Params
from m2dit_jax.models.pixels import encode_pixels
from m2dit_jax.pipeline.engine import Engine
from m2dit_jax.report.plots import figure_image, heat_maps
from m2dit_jax.stories.noise import START, scene_noise, story_keys

Matrix = Float[np.ndarray, "S S"]  # row: whose prompt; column: the scene that it reaches


@dataclass(frozen=True)
class LeakReport:
    """Means over `stories`; rows are prompts, columns scenes.

    `finished` and `evaluated` are root mean squares of the change relative to what was there: of
    the sampled latents, and of v in one evaluation halfway. `influence` has by the number of blocks
    passed, from 1, the gradient of a scene's v (a random projection of it) with respect to a
    prompt's embeddings, relative to that of the scene's own prompt on average.
    """

    mask: str
    stories: int
    finished: Matrix
    evaluated: Matrix
    influence: Sequence[Matrix]

    def to_json(self) -> dict[str, Any]:
        """The content of the file that `evaluate leakage --json` writes."""
        return {
            "mask": self.mask,
            "stories": self.stories,
            "finished": self.finished.tolist(),
            "evaluated": self.evaluated.tolist(),
            "influence": [
                {"blocks": number, "matrix": matrix.tolist()}
                for number, matrix in enumerate(self.influence, 1)
            ],
        }

    def to_text(self) -> str:
        """Tables for the terminal."""
        lines = []
        for title, matrix in (
            ("change of the finished scenes", self.finished),
            ("change of v in one evaluation", self.evaluated),
        ):
            lines += [f"{title}, when the prompt of a row is another:", *_rows(matrix), ""]
        lines.append("gradient of a scene's v by prompts, its own on average being 1:")
        lines.append(f"{'blocks':<10}{'own':>12}{'others':>12}{'most':>12}")
        for number, matrix in enumerate(self.influence, 1):
            others = _others(matrix)
            mean, most = (f"{x:.3g}" if len(others) else "-" for x in _mean_and_most(others))
            own = f"{np.diag(matrix).mean():.3g}"
            lines.append(f"{number:<10}{own:>12}{mean:>12}{most:>12}")
        lines.append(f"mask {self.mask}, {self.stories} stories")
        return "\n".join(lines)

    def to_picture(self) -> Image.Image:
        """All matrices as heat maps."""
        influence = [
            (f"gradient, {number} block{'s' * (number > 1)}", matrix)
            for number, matrix in enumerate(self.influence, 1)
        ]
        maps = [("finished scenes", self.finished), ("v, once", self.evaluated), *influence]
        return figure_image(heat_maps(maps, rows="prompt", columns="scene"))


def measure_leakage(
    engine: Engine, num_stories: int, seed: int, options: SamplingOptions | None = None
) -> LeakReport:
    """The leak meter on held-out stories of the run's world; story i is sampled with seed + i.

    Progress goes to stderr.
    """
    recipe, world = world_of(engine)
    data = recipe.config.data
    lengths = world.lengths(data.scenes, data.frames, 0)
    source = recipe.open_stories(seed, lengths, True, num_stories)
    items = [source[index] for index in range(num_stories)]
    video, texts = np.stack([item.video for item in items]), global_prompts(items)
    rng = np.random.default_rng([seed, 1])
    others = [
        [world.elsewhere(rng, item.scenes, number) for number in range(data.scenes)]
        for item in items
    ]

    def prompts(changed: int | None) -> list[list[str]]:
        return [
            [other if i == changed else own for i, (own, other) in enumerate(pairs)]
            for pairs in (
                zip(item.captions, other, strict=True)
                for item, other in zip(items, others, strict=True)
            )
        ]

    def all_prompts(changed: int | None) -> list[list[str]]:
        """With the global prompts, which stay as they are."""
        captions = prompts(changed)
        if texts is None:
            return captions
        return [[text, *story] for text, story in zip(texts, captions, strict=True)]

    def sample(changed: int | None) -> Float[np.ndarray, "B S F H W C"]:
        return engine.sample_many(
            prompts(changed), seeds, options=options, global_prompts=texts
        ).latents

    seeds = [seed + story for story in range(num_stories)]
    noisy = _halfway(engine, encode_pixels(jnp.asarray(video)), seeds)
    finished, evaluated, started = [], [], time.perf_counter()
    plain = sample(None)
    v_plain = _v(engine, *noisy, all_prompts(None))
    for scene in range(data.scenes):
        finished.append(_relative_change(sample(scene), plain))
        evaluated.append(_relative_change(_v(engine, *noisy, all_prompts(scene)), v_plain))
        print(
            f"prompt {scene + 1} of {data.scenes} changed, {time.perf_counter() - started:.0f} s",
            file=sys.stderr,
        )
    influence = [
        _influence(engine, recipe, depth, *noisy, all_prompts(None))
        for depth in range(1, recipe.config.model.layers + 1)
    ]
    return LeakReport(engine.mask, num_stories, np.stack(finished), np.stack(evaluated), influence)


def _halfway(
    engine: Engine, clean: Float[Array, "B S F H W C"], seeds: Sequence[int]
) -> tuple[Float[Array, "B S F H W C"], Int[Array, "B S"]]:
    """The true videos halfway to noise, and the timesteps."""
    keys = story_keys(seeds, range(clean.shape[1]))
    noise = scene_noise(keys, START, clean.shape[2:])
    timesteps = jnp.full(clean.shape[:2], engine.schedule.timesteps // 2, jnp.int32)
    return engine.schedule.add_noise(clean, noise, timesteps), timesteps


def _v(
    engine: Engine,
    latents: Float[Array, "B S F H W C"],
    timesteps: Int[Array, "B S"],
    prompts: Sequence[Sequence[str]],
) -> Float[np.ndarray, "B S F H W C"]:
    """One evaluation of the model, nothing given."""
    embeds, given = engine.embed_prompts(prompts), jnp.zeros(timesteps.shape, bool)
    return np.asarray(
        _evaluate(*engine.networks.get("transformer"), latents, embeds, timesteps, given)
    )


@partial(jax.jit, static_argnums=0)
def _evaluate(graphdef: nnx.GraphDef, params: Params, *inputs: Array) -> Array:
    return nnx.merge(graphdef, params)(*inputs)


def _influence(
    engine: Engine,
    recipe: Recipe,
    depth: int,
    latents: Float[Array, "B S F H W C"],
    timesteps: Int[Array, "B S"],
    prompts: Sequence[Sequence[str]],
) -> Matrix:
    """Through the first `depth` blocks, with the model's own embeddings and output."""
    config = make_transformer_config(recipe.config)
    shorter = replace(config, layers=depth)
    model: Any = nnx.eval_shape(lambda: recipe.family.transformer.make(shorter, rngs=nnx.Rngs(0)))
    model.block_masks = block_masks(config.mask, config.layers)[:depth]
    graphdef = nnx.graphdef(model)
    params = engine.networks.get("transformer").params
    params = params | {"blocks": jax.tree.map(lambda x: x[:depth], params["blocks"])}
    given = jnp.zeros(timesteps.shape, bool)
    projection = jax.random.normal(jax.random.key(0), latents.shape)

    @jax.jit
    def gradients(params: Params, embeds: Array) -> Float[Array, "S S"]:
        model = nnx.merge(graphdef, params)
        _, pull_back = jax.vjp(lambda text: model(latents, text, timesteps, given), embeds)

        def by_text(scene: Array) -> Float[Array, " S"]:
            only = (jnp.arange(latents.shape[1]) == scene)[:, None, None, None, None]
            (gradient,) = pull_back(projection * only)
            of_texts = jnp.sqrt((gradient**2).sum((2, 3))).mean(0)
            return of_texts[-latents.shape[1] :]  # a global one reaches all scenes

        return jax.lax.map(by_text, jnp.arange(latents.shape[1]))

    by_scene = np.asarray(gradients(params, engine.embed_prompts(prompts)), np.float64)
    own = np.diag(by_scene).mean()
    return by_scene.T / own if own > 0 else by_scene.T


def _relative_change(
    new: Float[np.ndarray, "B S F H W C"], old: Float[np.ndarray, "B S F H W C"]
) -> Float[np.ndarray, " S"]:
    axes = (2, 3, 4, 5)
    return np.sqrt(((new - old) ** 2).mean(axes) / (old**2).mean(axes)).mean(0)


def _others(matrix: Matrix) -> Float[np.ndarray, " N"]:
    return matrix[~np.eye(len(matrix), dtype=bool)]


def _mean_and_most(values: Float[np.ndarray, " N"]) -> tuple[float, float]:
    return (float(values.mean()), float(values.max())) if len(values) else (0.0, 0.0)


def _rows(matrix: Matrix) -> list[str]:
    head = " " * 10 + "".join(f"{f'scene {i}':>10}" for i in range(1, len(matrix) + 1))
    return [head] + [
        f"{f'prompt {number}':<10}" + "".join(f"{value:>10.3g}" for value in row)
        for number, row in enumerate(matrix, 1)
    ]
