"""What was found of a program for a machine: figures, as JSON and as text."""

import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from m2dit_jax.tools.planning.collectives import Collective
from m2dit_jax.tools.planning.roofline import Roofline
from m2dit_jax.utils.chips import GIB, Chip

_SOURCE = 80  # characters of where an instruction came from, the last being the nearest
STRIPS = 4  # decoding in strips of rows takes about that share of the memory of decoding whole
MARGIN = 0.1  # of the memory that should stay free: fragmentation, the framework, other programs


# Packages that compile for devices which are not there.
COMPILERS = ("jax-cuda12-plugin", "jax-cuda13-plugin", "nvidia-cudnn-cu12", "libtpu")


@dataclass(frozen=True)
class Figures:
    """Figures of a compiled program: operations of all devices, everything else of one.

    `required_flops` are the model's and what remat and the attention kernel repeat.
    """

    compiled_flops: int
    kernel_flops: int
    collective_bytes: dict[str, int]
    largest_collectives: tuple[Collective, ...]
    gathered_activations: tuple[Collective, ...]
    """All-gathers that put a whole activation together."""
    memory_traffic_bytes: int
    roofline: Roofline
    compile_seconds: float
    unknown_loops: tuple[str, ...]


@dataclass(frozen=True)
class Stage:
    """A part of a run that has the devices to itself: the bytes that it takes of one."""

    name: str
    peak_bytes: int
    weight_bytes: int


@dataclass(frozen=True)
class Plan:
    """The needs of a program on a machine; `figures` are None if it was too large to compile.

    `peak_bytes` are the program's own. A run has more `stages` than that, which take turns.
    """

    topology: str
    mode: str
    chip: Chip
    devices: int
    mesh: dict[str, int]
    stories: int
    remat: str
    attention: str
    peak_bytes: int
    parts: dict[str, int]
    model_flops: int
    required_flops: int
    least_bytes: dict[str, int]
    figures: Figures | None
    advice: tuple[str, ...]
    heads: str = ""
    """How attention's heads are divided, where they do not divide evenly."""
    stages: tuple[Stage, ...] = ()
    way: str = ""
    """The policy of memory and the form of the weights that sampling was planned with."""
    streamed_bytes: int = 0
    """Bytes that come from the host's memory in a step."""

    @property
    def transfer_seconds(self) -> float | None:
        """The least time that what comes from the host takes; None where nobody knows."""
        if not self.streamed_bytes:
            return 0.0
        bandwidth = self.chip.host_bandwidth
        return None if bandwidth is None else self.streamed_bytes / bandwidth

    @property
    def most_bytes(self) -> int:
        """Bytes of a device that the whole run takes: those of its largest stage."""
        return max([self.peak_bytes, *(stage.peak_bytes for stage in self.stages)])

    @property
    def margin(self) -> float:
        """Share of the memory that stays free; negative if it is not enough."""
        return 1 - self.most_bytes / self.chip.memory_bytes

    @property
    def fits(self) -> bool:
        """Whether memory is enough, with MARGIN."""
        return self.figures is not None and self.margin >= MARGIN

    def to_json(self) -> dict[str, Any]:
        """The plan as --json writes it."""
        figures = self.figures
        out: dict[str, Any] = {
            "topology": self.topology,
            "mode": self.mode,
            "chip": self.chip.name,
            "devices": self.devices,
            "mesh": self.mesh,
            "stories": self.stories,
            "remat": self.remat,
            "attention": self.attention,
            "heads": self.heads,
            "fits": self.fits,
            "margin": self.margin,
            "peak_bytes_per_device": self.most_bytes,
            "stages": {
                stage.name: {"peak_bytes": stage.peak_bytes, "weight_bytes": stage.weight_bytes}
                for stage in self.stages
            },
            "memory": self.way,
            "streamed_bytes": self.streamed_bytes,
            "transfer_seconds": self.transfer_seconds,
            "hbm_bytes_per_device": self.chip.memory_bytes,
            "memory_parts": self.parts,
            "model_flops": self.model_flops,
            "asked_flops": self.required_flops,
            "least_collective_bytes": self.least_bytes,
            "advice": list(self.advice),
            "sources": list(self.chip.sources),
        }
        if figures is None:
            missing = ("compiled_flops", "collective_bytes", "roofline_seconds", "compile_seconds")
            return out | dict.fromkeys(missing)
        return out | {
            "compiled_flops": figures.compiled_flops,
            "kernel_flops": figures.kernel_flops,
            "collective_bytes": figures.collective_bytes,
            "largest_collectives": [asdict(each) for each in figures.largest_collectives],
            "gathered_activations": [asdict(each) for each in figures.gathered_activations],
            "memory_traffic_bytes": figures.memory_traffic_bytes,
            "roofline_seconds": figures.roofline.bound,
            "roofline_parts": figures.roofline._asdict(),
            "compile_seconds": figures.compile_seconds,
            "unknown_loops": list(figures.unknown_loops),
        }

    def to_text(self) -> str:
        """The plan as the terminal shows it."""
        lines = [*self._what(), *self._memory()]
        if self.figures is not None:
            lines += [*self._work(self.figures), *self._collectives(self.figures)]
            lines.append(f"compiled in {self.figures.compile_seconds:.0f} s")
        lines += [f"to make it fit: {line}" for line in self.advice]
        lines += [f"figures of the chip: {source}" for source in self.chip.sources]
        return "\n".join(lines)

    def _what(self) -> list[str]:
        mesh = " x ".join(f"{name} {size}" for name, size in self.mesh.items()) or "one device"
        stories = f"{self.stories} {'story' if self.stories == 1 else 'stories'}"
        attention = f"attention {self.attention}{f' ({self.heads})' if self.heads else ''}"
        how = f"{attention}, remat {self.remat}, " if self.mesh else ""
        return [
            f"{self.mode} on {self.topology}: {self.devices} x {self.chip.name}, {mesh}",
            f"{how}{stories} a step",
        ]

    def _memory(self) -> list[str]:
        parts = ", ".join(f"{name} {_gib(size)}" for name, size in self.parts.items())
        verdict = "fits" if self.fits else "does NOT fit"
        lines = [
            f"memory of a device: {_gib(self.most_bytes)} of {_gib(self.chip.memory_bytes)} GiB, "
            f"{self.margin:.0%} free (at least {MARGIN:.0%} should be): {verdict}",
            f"  in GiB: {parts}",
        ]
        if self.way:
            lines.append(f"  memory policy: {self.way}")
        if self.streamed_bytes:
            seconds = self.transfer_seconds
            least = "" if seconds is None else f", which takes at least {seconds:.3g} s"
            lines.append(f"  from the host in a step: {_gib(self.streamed_bytes)} GiB{least}")
        if self.stages:
            taken = ", ".join(f"{each.name} {_gib(each.peak_bytes)}" for each in self.stages)
            lines.append(f"  networks take turns, each stage in GiB: {taken}")
        return lines

    def _work(self, figures: Figures) -> list[str]:
        line, peta = figures.roofline, 1e15
        share = figures.compiled_flops / self.required_flops
        lines = [
            f"operations: the model's {self.model_flops / peta:.4g} PFLOP, with what remat and the "
            f"attention kernel repeat {self.required_flops / peta:.4g}; compiled "
            f"{figures.compiled_flops / peta:.4g} ({share:.3f} of that), "
            f"{figures.kernel_flops / peta:.4g} of it in attention kernels (closed form)",
            f"a step takes at least {line.bound:.3g} s ({line.bound_by}): computing "
            f"{line.compute:.3g}, memory {line.memory:.3g}, network {line.network:.3g}",
        ]
        if figures.unknown_loops:
            lines.append(f"counted once, for want of a count: loops {figures.unknown_loops}")
        return lines

    def _collectives(self, figures: Figures) -> list[str]:
        found, least = figures.collective_bytes, sum(self.least_bytes.values())
        kinds = ", ".join(f"{kind} {size / 1e9:.3f}" for kind, size in found.items()) or "none"
        ratio = f", {sum(found.values()) / least:.3f} of the least" if least else ""
        lines = [f"received by a device, in GB: {kinds}{ratio}"]
        if least:
            needed = ", ".join(f"{k} {v / 1e9:.3f}" for k, v in self.least_bytes.items() if v)
            lines.append(f"  the least for this mesh: {needed}")
        for each in figures.largest_collectives:
            shape = "x".join(map(str, each.shape))
            lines.append(
                f"  {each.total / 1e9:.3f} GB {each.kind} x{each.count} over {each.group} "
                f"{each.dtype}[{shape}] {each.name} {each.source[-_SOURCE:]}"
            )
        for each in figures.gathered_activations:
            lines.append(f"  a whole activation is gathered: {each.name} {each.source[-_SOURCE:]}")
        return lines


def origin(arguments: Sequence[str]) -> dict[str, Any]:
    """The command of a plan, without the places of files, its date, and the versions at work."""
    kept = [each for each in arguments if not each.startswith(("--json", "--cache"))]
    names = ("m2dit_jax", "jax", "jaxlib", *COMPILERS)
    return {
        "command": shlex.join(["m2dit", "plan", *kept]),
        "date": date.today().isoformat(),
        "versions": {name: found for name in names if (found := _version(name))},
    }


def _version(package: str) -> str | None:
    with suppress(PackageNotFoundError):
        return version(package)
    return None


def _gib(size: int) -> str:
    share = size / GIB
    return f"{share:.2f}" if share >= 0.01 or not size else f"{share:.1g}"
