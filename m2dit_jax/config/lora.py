"""The fields of `config.train.lora`: adapters are trained, and the model's own weights stay."""

from dataclasses import dataclass
from typing import Any

from m2dit_jax.config.fields import setting
from m2dit_jax.models.lora import adapter_scale
from m2dit_jax.models.quantized import FROZEN_FORMS

TARGETS = ("to_q", "to_k", "to_v", "to_out", "linear_1", "linear_2")
BASE_DTYPES = ("float32", "bfloat16", *FROZEN_FORMS)


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters of the transformer's blocks (arXiv 2106.09685)."""

    rank: int = setting(
        "Rank of the adapters, which alone are trained: the weights of config.train.init_from stay "
        "as they are. 0: there are none, all weights are trained.",
        at_least=0,
        at_most=4096,
        absent=0,
    )
    alpha: float = setting(
        "What the adapters make is scaled by alpha / rank; 0: alpha is the rank.",
        at_least=0,
        at_most=1e6,
        absent=0.0,
    )
    targets: tuple[str, ...] = setting(
        "The linear layers of a block that have adapters: of attention to_q, to_k, to_v, to_out, "
        "of the feed-forward part linear_1, linear_2.",
        choices=TARGETS,
        absent=("to_q", "to_k", "to_v", "to_out"),
    )
    dropout: float = setting(
        "Share of an adapter's inputs that a step leaves out, the same for all tokens.",
        at_least=0,
        at_most=0.99,
        absent=0.0,
    )
    base_dtype: str = setting(
        "Form in which the weights that stay lie on the devices. int8 (a scale for each output) "
        "and nf4 (4 bits, a scale for each 64 inputs; QLoRA) are for the linear layers of the "
        "transformer's blocks; the rest is then in config.train.compute_dtype.",
        choices=BASE_DTYPES,
        absent="float32",
    )

    @property
    def quantize(self) -> str | None:
        """The form that the weights that stay are quantised to; None: they are floats."""
        return self.base_dtype if self.rank and self.base_dtype in FROZEN_FORMS else None

    @property
    def scale(self) -> float:
        """The factor of what the adapters make."""
        return adapter_scale(self.rank, self.alpha)

    def problems(self, train: Any, distill: Any) -> list[str]:
        """Problems with fields of `config.train` and `config.distill` that do not go with it."""
        if not self.rank:
            return []
        problems = []
        if not train.init_from:
            problems.append(
                "config.train.lora needs config.train.init_from: the model that adapters are for"
            )
        if distill.teacher:
            problems.append("config.train.lora and config.distill: needs one or the other")
        if train.optimizer != "adamw":
            problems.append(
                "config.train.optimizer must be 'adamw' with config.train.lora, "
                f"got {train.optimizer!r}: Muon is for whole matrices"
            )
        if not self.targets:
            problems.append(f"config.train.lora.targets needs some of {', '.join(TARGETS)}")
        return problems
