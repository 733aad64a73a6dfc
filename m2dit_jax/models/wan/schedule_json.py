"""`scheduler/scheduler_config.json` of a Wan folder: flow matching by UniPC or by Euler."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from m2dit_jax.diffusion.flow import FlowSchedule
from m2dit_jax.diffusion.noising import Schedule
from m2dit_jax.diffusion.samplers import Sampler
from m2dit_jax.models.json_reading import raise_problems, read_json, shown_value
from m2dit_jax.utils.options import Options, option

Json = Mapping[str, Any]

_Timesteps = Annotated[int, Field(ge=2, le=100_000)]
_Shift = Annotated[float, Field(ge=1e-4, le=1e4)]
_UNIPC, _EULER = "UniPCMultistepScheduler", "FlowMatchEulerDiscreteScheduler"
_NO_OTHER_SIGMAS = {
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "use_dynamic_shifting": False,
    "shift_terminal": None,
}
_FIXED = {
    _UNIPC: {
        **_NO_OTHER_SIGMAS,
        "prediction_type": "flow_prediction",
        "use_flow_sigmas": True,
        "solver_order": 2,
        "solver_type": "bh2",
        "solver_p": None,
        "predict_x0": True,
        "lower_order_final": True,
        "disable_corrector": [],
        "final_sigmas_type": "zero",
        "thresholding": False,
    },
    _EULER: {**_NO_OTHER_SIGMAS, "invert_sigmas": False, "stochastic_sampling": False},
}
_SAMPLERS: dict[str, Sampler] = {_UNIPC: "unipc", _EULER: "euler"}
# Each sampler's own, in diffusers; and what the shift is called there.
_SPACINGS = {_UNIPC: "trailing", _EULER: "linspace"}
_SHIFTS = {_UNIPC: "flow_shift", _EULER: "shift"}


class UniPcJson(Options, frozen=True):
    """The fields of UniPC that are read."""

    num_train_timesteps: _Timesteps = option(1000, "Timesteps.")
    flow_shift: _Shift = option(1.0, "Multiplies the odds of noise.")


class EulerJson(Options, frozen=True):
    """The fields of Euler that are read."""

    num_train_timesteps: _Timesteps = option(1000, "Timesteps.")
    shift: _Shift = option(1.0, "Multiplies the odds of noise.")


def noise_schedule(json: Json) -> FlowSchedule:
    """The schedule of a `scheduler_config.json`. Raises ValueError for another kind."""
    kind = _kind(json)
    # Both have defaults in diffusers that are no flow, and must say that they are.
    missing = [key for key in ("prediction_type", "use_flow_sigmas") if key not in json]
    if kind == _UNIPC and missing:
        raise_problems("scheduler", [f"{key} is missing" for key in missing])
    fields = UniPcJson if kind == _UNIPC else EulerJson
    values = read_json("scheduler", fields, json, _FIXED[kind])
    return FlowSchedule(values["num_train_timesteps"], values[_SHIFTS[kind]], _SPACINGS[kind])


def schedule_json(schedule: Schedule, base: Json) -> dict[str, Any]:
    """The `scheduler_config.json` of a schedule; `base` is that of another, or of the same.

    Raises ValueError for a schedule of another kind.
    """
    if not isinstance(schedule, FlowSchedule):
        raise ValueError(
            "Wan's schedulers need config.diffusion.kind 'flow', found a schedule of betas"
        )
    changed = {
        "num_train_timesteps": schedule.timesteps,
        _SHIFTS[_kind(base)]: schedule.shift,
    }
    return dict(base) | changed


def sampler_name(json: Json) -> Sampler:
    """The sampler that `scheduler/scheduler_config.json` names. Raises ValueError for others."""
    return _SAMPLERS[_kind(json)]


def _kind(json: Json) -> str:
    name = json.get("_class_name")
    if isinstance(name, str) and name in _SAMPLERS:
        return name
    raise ValueError(
        f"scheduler config: _class_name must be one of {', '.join(_SAMPLERS)}, got "
        f"{shown_value(name)}"
    )
