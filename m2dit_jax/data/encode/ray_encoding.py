"""Encodes on a Ray cluster, as parts that are each what `--part` makes on a host, and joins them.

Actors and not Ray Data: an actor keeps its model and its GPU from part to part, and what is
finished lies in the output and not in the memory of the cluster.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from m2dit_jax.data.encode.encoding import encode_part, join_parts, lacks_empty_caption
from m2dit_jax.data.encode.job import MOST_SHARDS, EncodeJob, check
from m2dit_jax.data.encode.parts import Part, writing_all
from m2dit_jax.data.encode.ray_crew import Crew, Task, connected, usual_need
from m2dit_jax.data.encode.shard_work import drop_changed
from m2dit_jax.data.encode.summary import begin_line, summary
from m2dit_jax.data.encoded import FINISHED, is_shard
from m2dit_jax.utils.devices import prefer_available_platform
from m2dit_jax.utils.progress import progress_bar
from m2dit_jax.utils.remote.mirror import Sharing
from m2dit_jax.utils.remote.places import close_places, written_place

# The jobs for an output folder, with so many processes that decode.
MakeJobs = Callable[[Path, int], list[EncodeJob]]


class Outline(NamedTuple):
    """The work that a job has left: a line about it, and the clips of each part."""

    line: str
    left: dict[Part, int]


class Encoder:
    """Encodes parts in a worker; the jobs are made once, and the last one's model stays loaded."""

    def __init__(self, make_jobs: MakeJobs, output: str, folder: str, workers: int):
        self._make_jobs, self._output, self._folder = make_jobs, output, folder
        self._workers = workers
        self._jobs: list[EncodeJob] = []
        self._made_in = Path()
        self._last = 0  # number of the job whose model is loaded
        prefer_available_platform()

    def begin(self) -> list[Outline]:
        """Checks all jobs. Raises ValueError, as `check` does."""
        with self._opened() as jobs:
            for job in jobs:
                check(job)
            return [_outline(job) for job in jobs]

    def encode(self, number: int, part: Part) -> None:
        """Does what is left of a part of a job. Raises as `encode_part`."""
        if number != self._last:
            self._jobs, self._last = [], number  # lets the other model go
        with self._opened(part) as jobs:
            check(jobs[number])
            encode_part(jobs[number], part)

    def finish(self, number: int) -> tuple[str, str | None]:
        """Joins the parts of a job: the lines about the dataset, and its place if there is one.

        Raises as `join_parts`.
        """
        with self._opened() as jobs:
            job, report = jobs[number], join_parts(jobs[number])
            below = self._jobs[number].output.relative_to(self._made_in).parts
            place = "/".join([self._output, *below])
            return summary(job, report), None if report.dataset is None else place

    @contextmanager
    def _opened(self, part: Part | None = None) -> Iterator[list[EncodeJob]]:
        """The jobs, whose output is open for a part, or for all of it."""
        try:
            os.chdir(self._folder)  # where the paths of the command begin
        except OSError as error:
            raise ValueError(
                f"{self._folder}: a node has no such folder, where the command was started; needs "
                "one that all nodes have"
            ) from error
        try:
            output = written_place(self._output, Sharing(part.name if part else "", is_shard))
            if not self._jobs:
                self._jobs, self._made_in = self._make_jobs(output, self._workers), output
            yield [
                replace(job, output=output / job.output.relative_to(self._made_in))
                for job in self._jobs
            ]
        finally:
            close_places()


def _outline(job: EncodeJob) -> Outline:
    total = len(job.shards)
    of = min(total, MOST_SHARDS)
    left: dict[Part, int] = {}
    if not (job.output / FINISHED).exists():
        with writing_all(job.output):
            drop_changed(job, range(total))
        for part in (Part(number, of) for number in range(1, of + 1)):
            missing = [shard for shard in part.shards(total) if job.record(shard) is None]
            if missing or (part.number == 1 and lacks_empty_caption(job)):
                left[part] = job.scenes_in(missing)
    return Outline(begin_line(job), left)


def encode_on_ray(
    make_jobs: MakeJobs, output: str, workers: int | None, on_gpus: bool
) -> list[str]:
    """Encodes all jobs and joins them; progress goes to stderr.

    Returns the places of the datasets: not of jobs of which nothing could be encoded. Raises as
    `encode_dataset`, and WorkFailed if a part kills its workers.
    """
    with connected() as ray:
        need = usual_need(ray, workers, on_gpus)
        crew = Crew(ray, Encoder, (make_jobs, output, os.getcwd(), need.cpus), need)
        if not crew.size():
            raise ValueError(f"no node of the Ray cluster has what a worker takes: {need}")
        print(f"Ray cluster with room for {crew.size()} workers of {need}", file=sys.stderr)
        ((_, outlines),) = crew.do([Task("begin", (), output)])
        print("\n".join(outline.line for outline in outlines), file=sys.stderr)
        tasks = [
            Task("encode", (number, part), f"part {part}")
            for number, outline in enumerate(outlines)
            for part in outline.left
        ]
        clips = sum(sum(outline.left.values()) for outline in outlines)
        with progress_bar(clips, "encode", "clips") as progress:
            for task, _ in crew.do(tasks):
                number, part = task.arguments
                progress.update(outlines[number].left[part])
        found = []
        for number in range(len(outlines)):
            ((_, (lines, place)),) = crew.do([Task("finish", (number,), output)])
            print(lines)
            if place is not None:
                found.append(place)
        return found
