"""The share of a device's memory that sampling takes, and which way to sample fits.

Weights are counted; activations are estimated from what compilers said of denoising steps
(`m2dit plan --mode=sample` compiles them for a machine).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict

from m2dit_jax.models.quantized import SCALE

Policy = Literal["resident", "offload", "stream"]
# Of a device's memory, what is planned for: compilers and libraries take some that nobody counts.
MOST_MEMORY = 0.9
# What a block takes beside its weights and its result, as arrays of all its tokens: of 5B for an
# RTX 3060 7.3 (bfloat16) and 6.3 (int8), jax 0.10.2. Of TPUs and CPUs it is a guess.
ACTIVATIONS = {"gpu": 7.5, "tpu": 9.0, "cpu": 14.0}
# Products of int8 give int32, and tokens are there in int8 beside.
MORE_ACTIVATIONS = {"int8_w8a8": 2.6}
_GIB = 2**30
_WORDS = {
    "resident": "all networks on the device",
    "offload": "one network on the device at a time",
    "stream": "one network on the device at a time, the transformer's blocks from host memory",
}


class StorySize(NamedTuple):
    """Scenes that are denoised together, their size, and evaluations of them side by side."""

    scenes: int
    frames: int
    height: int
    width: int
    rows: int


@dataclass(frozen=True)
class Needs:
    """Bytes of a model's networks, and of the activations of one story.

    `block` is one of the transformer's `blocks`, `outside` the rest of it; of `transformers` there
    may be two, of which one is at work at a time; `tokens` is one array
    of all tokens of a story, `rows` as in StorySize. `decoding` is a scene in one piece.
    """

    text_encoder: int
    outside: int
    block: int
    blocks: int
    vae: int
    tokens: int
    rows: int
    decoding: int
    activations: float
    transformers: int = 1

    def stages(self, policy: Policy, in_turn: bool, text_on_host: bool) -> dict[str, int]:
        """Bytes of the device at most, by the network that is at work."""
        working = self.activations * self.tokens * (1 if in_turn else self.rows)
        beside = int(working + self.rows * self.tokens)
        text = 0 if text_on_host else self.text_encoder
        blocks = min(2, self.blocks) if policy == "stream" else self.blocks
        transformer = self.outside + blocks * self.block
        if policy == "resident":
            transformers = self.transformers * transformer
            weights = text + transformers + self.vae
            stages = {
                "text encoder": weights,
                "transformer": weights + beside,
                "VAE": weights + self.decoding,
            }
        else:
            stages = {
                "text encoder": text,
                "transformer": transformer + beside,
                "VAE": self.vae + self.decoding,
            }
        return stages


@dataclass(frozen=True)
class MemoryPlan:
    """A way to sample: the policy, whether branches of guidance go one after another, where the
    text encoder works, and the bytes of each stage as far as they are known."""

    policy: Policy
    in_turn: bool = False
    text_on_host: bool = False
    stages: Mapping[str, int] = field(default_factory=dict)
    limit: int | None = None

    @property
    def placing(self) -> tuple[Any, ...]:
        """All that decides where arrays are."""
        return self.policy, self.in_turn, self.text_on_host

    @property
    def fits(self) -> bool:
        """Whether all stages fit; a VAE that does not decodes in strips."""
        return self.limit is None or self._least() <= MOST_MEMORY * self.limit

    @property
    def resident(self) -> bool:
        """Whether all networks stay on the device."""
        return self.policy == "resident"

    @property
    def decodes_whole(self) -> bool:
        """Whether the VAE decodes a scene in one piece."""
        return self.limit is None or self.stages["VAE"] <= MOST_MEMORY * self.limit

    def _least(self) -> int:
        return max((size for name, size in self.stages.items() if name != "VAE"), default=0)

    def to_text(self) -> str:
        """A line: what was chosen and what it needs."""
        more = ", branches of guidance one after another" * self.in_turn
        more += ", text encoder on the CPU" * self.text_on_host
        sizes = ", ".join(f"{name} {size / _GIB:.1f}" for name, size in self.stages.items() if size)
        of = "" if self.limit is None else f" of {self.limit / _GIB:.1f}"
        return f"memory: {self.policy} ({_WORDS[self.policy]}{more}): {sizes}{of} GiB (estimated)"


def goes_in_chunks(in_turn: bool, quantize: str | None, devices: int) -> bool:
    """Whether feed-forward takes a chunk of tokens at a time: where memory decides, on one device.

    Products of int8 give int32, twice what they are in bfloat16.
    """
    return devices == 1 and (in_turn or quantize == "int8_w8a8")


def choose_plan(
    memory: str, needs: Needs, limit: int | None, host_works: bool = True, streams: bool = True
) -> MemoryPlan:
    """The quickest plan that fits `limit`, the bytes of the device; else the one of least memory.

    `memory` is "auto" or a policy; `host_works` says whether the text encoder can be on the host,
    `streams` whether blocks can come from there. Without a limit networks take turns.
    """
    if memory == "turns":  # the name that `offload` had
        memory = "offload"
    if memory == "auto" and limit is None:
        memory = "offload"
    plans = [
        MemoryPlan(*way, needs.stages(*way), limit) for way in _ways(memory, host_works, streams)
    ]
    fitting = [each for each in plans if each.fits]
    # Where all networks stay on the device, a VAE must not need strips for that.
    quick = [
        each for each in fitting if memory != "auto" or each.decodes_whole or not each.resident
    ]
    return next(iter([*quick, *fitting]), plans[-1])


def _ways(memory: str, host_works: bool, streams: bool) -> Iterator[tuple[Policy, bool, bool]]:
    """Ways to sample, from the quickest to the one of least memory."""
    if memory in ("auto", "resident"):
        yield "resident", False, False
        yield "resident", True, False
    for policy in ("offload", "stream"):
        if memory not in ("auto", policy) or (policy == "stream" and not streams):
            continue
        for text_on_host in (False, True) if host_works else (False,):
            for in_turn in (False, True):
                yield policy, in_turn, text_on_host


def advice(plan: MemoryPlan, needs_with: Callable[[str], Needs], streams: bool) -> str:
    """A line that names what would fit where the plan does not, or says that nothing would."""
    assert plan.limit is not None
    tries = [("--memory=auto", "auto", None), ("--quantize=int8", "auto", "int8")]
    for flags, memory, form in tries:
        other = choose_plan(memory, needs_with(form or ""), plan.limit, True, streams)
        if other.fits and other.placing != plan.placing:
            return f"memory: that does not fit; {flags} would: {other.to_text()}"
    return "memory: that does not fit, nor would 8 bits; needs fewer or smaller scenes at once"


def param_bytes(abstract: Any, dtype: np.dtype) -> int:
    """Bytes of parameters that are in `dtype`, but for what is in 8 bits and its scales."""
    flat: dict[Any, Any] = flatten_dict(abstract)
    total = 0
    for path, like in flat.items():
        kept = np.dtype(like.dtype).itemsize == 1 or path[-1] == SCALE
        itemsize = np.dtype(like.dtype if kept else dtype).itemsize
        total += int(np.prod(like.shape)) * itemsize
    return total
