"""How stories of each world are scored, by the names of `data.worlds`."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, UInt8

from m2dit_jax.evaluation.scores import Mean, Score
from m2dit_jax.evaluation.shapes_scores import ShapesScorer
from m2dit_jax.evaluation.storyworld_scores import StoryworldScorer


@runtime_checkable
class WorldScorer(Protocol):
    """Reads stories once and scores any of their scenes."""

    metrics: tuple[str, ...]
    """Names of the shares, in the order of tables; the means of FIDELITY come after them."""
    of_stories: tuple[str, ...]
    """Those whose cases are stories, which single scenes do not have."""

    def read(
        self,
        video: UInt8[np.ndarray, "N S F H W 3"],
        stories: Sequence[tuple[Any, ...]],
        given: Bool[np.ndarray, "N S"],
    ) -> Any:
        """What is seen in all scenes; how clean only those are that are not given."""
        ...

    def score(
        self, reading: Any, stories: Sequence[tuple[Any, ...]], given: Bool[np.ndarray, "N S"]
    ) -> dict[str, Score | Mean]:
        """The scores, of scenes that are not given, by `metrics` and FIDELITY."""
        ...


SCORERS: dict[str, WorldScorer] = {"shapes": ShapesScorer(), "storyworld": StoryworldScorer()}
