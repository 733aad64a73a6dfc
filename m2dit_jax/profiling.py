"""Traces of the profiler, for xprof (or TensorBoard's profile plugin) and Perfetto."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax


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
