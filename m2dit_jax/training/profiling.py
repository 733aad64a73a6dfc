"""Traces of the profiler, for xprof (or TensorBoard's profile plugin) and Perfetto."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax

from m2dit_jax.parallel.processes import is_first


@contextmanager
def trace(folder: Path) -> Iterator[None]:
    """Writes what host and devices do in the meantime to `folder`/plugins/profile/TIME/.

    There, `*.xplane.pb` is for xprof and TensorBoard (`--logdir` is `folder`) and
    `perfetto_trace.json.gz` for https://ui.perfetto.dev. What was started must be waited for inside
    (`block_until_ready`), or the trace ends before it. Only one trace can be written at a time.
    """
    options = jax.profiler.ProfileOptions()
    # Calls of Python functions would be most of the trace.
    options.python_tracer_level = 0
    with jax.profiler.trace(folder, create_perfetto_trace=True, profiler_options=options):
        yield


def named_step(name: str, number: int) -> jax.profiler.StepTraceAnnotation:
    """A context in which a step runs, so that the trace can be read step by step."""
    return jax.profiler.StepTraceAnnotation(name, step_num=number)


class StepsTrace:
    """A trace of some steps of a training run, by its first process, once the run is under way."""

    SKIPPED = 2  # steps, in which buffers are filled

    def __init__(self, folder: Path, steps: int, first_step: int):
        start = first_step + self.SKIPPED
        self._folder = folder
        self._steps = range(start, start + (steps if is_first() else 0))
        self._open = ExitStack()

    def before(self, step: int) -> None:
        """Starts the trace if this is its first step."""
        if self._steps and step == self._steps[0]:
            self._open.enter_context(trace(self._folder))

    def after(self, step: int, result: Any) -> None:
        """Ends the trace, once `result` is computed, if this is its last step."""
        if self._steps and step == self._steps[-1]:
            jax.block_until_ready(result)
            self._open.close()
            print(f"traced {len(self._steps)} steps: {self._folder}", flush=True)

    def close(self) -> None:
        """Ends a trace that is still open."""
        self._open.close()
