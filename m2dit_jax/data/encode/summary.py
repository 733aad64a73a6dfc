"""The lines that end an encoding: counts, reasons, what to do next."""

from collections.abc import Mapping, Sequence

from m2dit_jax.data.encode.encoding import EncodeReport
from m2dit_jax.data.encode.job import EncodeJob, finished_shards
from m2dit_jax.data.encode.parts import Part
from m2dit_jax.data.encode.records import ShardRecord
from m2dit_jax.data.encoded import Skipped, count_kinds, different_rates, is_shard
from m2dit_jax.utils.sizes import size_text
from m2dit_jax.weights.tokenizers import LITTLE


def begin_line(job: EncodeJob) -> str:
    """The lines about what an encoding begins, or goes on, with."""
    scenes, total = sum(job.scene_counts), len(job.shards)
    return (
        f"{job.manifest.source}: {len(job.manifest.stories)} stories, {scenes} scenes\n"
        f"writing to {job.output}: {finished_shards(job)} of {total} shards are there"
    )


def summary(job: EncodeJob, report: EncodeReport) -> str:
    """The lines about a dataset that was encoded."""
    lines = []
    if report.dataset is None:
        lines.append(f"{job.output}: nothing could be encoded")
    else:
        info, counts = report.dataset.info, report.dataset.scene_counts
        small = (
            path for path in job.output.iterdir() if path.is_file() and not is_shard(path.name)
        )
        size = report.dataset.nbytes + sum(path.stat().st_size for path in small)
        lines.append(
            f"{job.output}: {len(counts)} stories, {sum(counts)} scenes of {info.frames} frames "
            f"of {info.height}x{info.width}, codec {info.codec}, {len(job.shards)} shards, "
            f"{size_text(size)}" + (" (was finished before)" if report.was_finished else "")
        )
    lines += _skipped_lines(report.skipped, ", each named in skipped.json")
    if report.changed:
        lines.append(
            f"{len(report.changed)} videos have changed since, for example {report.changed[0]}: "
            "the dataset holds what they were; another --output encodes them as they are"
        )
    if report.dataset is not None and job.fps is None:
        lines += _rates(report.dataset.statistics["fps"])
    if report.cut_captions:
        lines.append(f"{report.cut_captions} captions are longer than the model reads and were cut")
    if report.unknown:
        worst = max(report.unknown, key=lambda item: item["share"])
        little = sum(item["share"] >= LITTLE for item in report.unknown)
        lines.append(
            f"{len(report.unknown)} captions have characters that the model does not know, each "
            f"named in skipped.json; {little} lose half of theirs or more; for example "
            f"{worst['place']}: {worst['share']:.0%} of it, {', '.join(worst['characters'])[:80]}"
        )
    return "\n".join(lines)


def _rates(counts: Mapping[str, int]) -> list[str]:
    """A line about videos whose rates differ."""
    rates = different_rates(counts)
    if rates is None:
        return []
    return [
        f"the videos have {rates[0]} to {rates[1]} frames a second, and each was taken at its own: "
        "the same motion is faster in some; --fps takes all of them at one rate"
    ]


def part_summary(job: EncodeJob, part: Part, records: Sequence[ShardRecord]) -> str:
    """The lines about a part that was encoded."""
    scenes = sum(sum(record["scene_counts"]) for record in records)
    size = sum(record["shard"]["bytes"] for record in records)
    skipped = [item for record in records for item in record["skipped"]]
    return "\n".join(
        [
            f"{job.output}: part {part} is there: {len(records)} of {len(job.shards)} shards, "
            f"{scenes} scenes, {size_text(size)}; when all parts are, --join makes a dataset of "
            "them",
            *_skipped_lines(skipped, ""),
        ]
    )


def _skipped_lines(skipped: Sequence[Skipped], where: str) -> list[str]:
    if not skipped:
        return []
    lines = [f"skipped {len(skipped)} scenes{where}:"]
    for kind, count in count_kinds(skipped).items():
        example = next(item for item in skipped if item["kind"] == kind)
        lines.append(f"  {count} x {kind}; for example {example['place']}: {example['video']}")
    return lines
