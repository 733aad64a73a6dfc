"""Commands that the campaigns of faults start, on tiny models, and the digests of their results."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path

from tests.app_client import AppClient

ROOT = Path(__file__).parent.parent
TINY = [
    *("--config.model.layers=1", "--config.model.heads=1", "--config.model.head_dim=16"),
    *("--config.model.time_dim=16", "--config.train.batch_size=2", "--config.train.eval_every=0"),
    *("--config.train.warmup_steps=0", "--config.sample.steps=2", "--config.train.log_every=1"),
]


PROMPTS = ["a blue cross moves left on gray", "it moves up on navy", "it moves down on gray"]


def clear(out: Path) -> None:
    """Removes what a command wrote to the folder, and what it had not finished."""
    for folder in (out, out.with_name(f"{out.name}.partial")):
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Command:
    """A command's flags for a folder that it writes to, and the digest of what it wrote there.

    `use` is what its user does while it runs, and ends it. `clear` empties the folder. `env` is
    asked at each start for what its environment has besides ours. What is `where`, in words, takes
    up to `longer` times as long as in a local folder.
    """

    flags: Callable[[Path], list[str]]
    digest: Callable[[Path], str]
    use: Callable[["Running"], None] | None = None
    clear: Callable[[Path], None] = clear
    env: Callable[[], dict[str, str]] = field(default=dict)
    where: str = ""
    longer: float = 1.0


def commands(work: Path) -> dict[str, Command]:
    """The commands by name; `work` holds what they read (see `prepare`) and what they compile."""
    run, clips, cache = work / "run", work / "clips", f"--compile_cache={work}/compiled"
    return {
        "train": Command(
            lambda out: [
                *("--config=base", *TINY, "--config.train.steps=16"),
                *("--config.train.checkpoint_every=4", f"--workdir={out}", cache),
            ],
            lambda out: run_digest(out, 16),
        ),
        "sample": Command(
            lambda out: [
                *(f"--checkpoint={run}", "--storyboard=lone_actor", f"--output={out}", cache)
            ],
            story_digest,
        ),
        "encode": Command(
            lambda out: [
                *(f"--manifest={clips}/stories.jsonl", f"--output={out}", "--codec=pixels"),
                *("--frames=8", "--height=32", "--width=32", "--shard_scenes=2"),
            ],
            lambda out: _bytes(out, "*"),
        ),
        "convert": Command(
            lambda out: [f"--source={ROOT}/tests/golden/pipe_2b", f"--output={out}"],
            _arrays_digest,
        ),
        "evaluate": Command(
            lambda out: [f"--checkpoint={run}", "--stories=4", f"--json={out}/report.json", cache],
            lambda out: without_times(out / "report.json"),
        ),
        "app": Command(
            lambda out: [f"--checkpoint={run}", f"--output={out}", cache],
            lambda out: story_digest(out / "story-001"),
            _make_story,
        ),
    }


def prepare(work: Path) -> None:
    """Writes, unless it is there, the trained run and the clips that the commands read."""
    if not (work / "run" / "checkpoints" / "1").is_dir():
        flags = ["--config=base", *TINY, "--config.train.steps=1", f"--workdir={work}/run"]
        subprocess.run([*python("train"), *flags], cwd=ROOT, check=True)
    if not (work / "clips" / "stories.jsonl").is_file():
        from tests.test_encode import COLOURS, write_manifest, write_video

        (work / "clips").mkdir(exist_ok=True)
        for name, colour in COLOURS.items():
            write_video(work / "clips" / f"{name}.mp4", colour=colour)
        names = [f"{name}.mp4" for name in COLOURS]
        stories = {f"story {i}": [names[i % 3], names[(i + 1) % 3]] for i in range(20)}
        write_manifest(work / "clips" / "stories.jsonl", stories)


class Running:
    """A command at work in the folder `out`, and the user of the app, if it is that.

    What it prints is kept in the folder `logs`, beside `out` if there is none.
    """

    def __init__(self, name: str, command: Command, out: Path, logs: Path | None = None):
        self.out = out
        self._text: str | None = None
        self._log = (logs or out.parent) / f"{out.name}.{time.monotonic_ns()}.log"
        with self._log.open("w") as file:
            self.process = subprocess.Popen(
                [*python(name), *command.flags(out)],
                cwd=ROOT,
                env={**os.environ, **command.env()},
                stdout=file,
                stderr=file,
            )
        self.problem = ""  # of the user
        self._user: threading.Thread | None = None
        if command.use:
            self._user = threading.Thread(target=self._use, args=(command.use,), daemon=True)
            self._user.start()

    def printed(self) -> str:
        """What it has written to stdout and stderr."""
        return self._log.read_text(errors="replace") if self._text is None else self._text

    def has_traceback(self) -> bool:
        return any(word in self.printed() for word in ("Traceback", "Exception ignored"))

    def end(self, timeout: float | None = None) -> int:
        """Its exit status. Raises TimeoutExpired if it is at work for longer."""
        status = self.process.wait(timeout)
        if self._user:
            self._user.join()
        self._text = self.printed()
        self._log.unlink()
        return status

    def _use(self, use: Callable[["Running"], None]) -> None:
        try:
            use(self)
        except Exception as error:
            if isinstance(error, (OSError, HTTPException)):  # so does the end of the app look
                with suppress(subprocess.TimeoutExpired):
                    self.process.wait(10)
                    return
            self.problem = str(error)
            self.process.send_signal(signal.SIGINT)


def time_of(name: str, command: Command, out: Path) -> float:
    """Seconds that the command takes, undisturbed; its result is left in `out`."""
    seconds = 0.0
    for _ in range(2):  # the first compiles
        clear(out)
        started = time.monotonic()
        running = Running(name, command, out)
        if running.end() or running.problem:
            raise RuntimeError(f"{name}: {running.problem}\n{running.printed()}")
        seconds = time.monotonic() - started
    return seconds


def python(name: str) -> list[str]:
    return [sys.executable, "-m", f"m2dit_jax.{name}"]


def _make_story(running: "Running") -> None:
    """Waits for the app, makes its story, or goes on with the one that is there, and ends it."""
    address = None
    while address is None:
        if running.process.poll() is not None:
            return
        time.sleep(0.05)
        address = re.search(r"http://\S+", running.printed())
    page = AppClient(address[0])
    for name in page.stories():
        page.choose(name)
    if page.prompts() != PROMPTS:
        if page.stories():
            raise ValueError(f"the form of the story shows {page.prompts()}")
        page.fill_in(PROMPTS, seed=3, steps=1000)
    if "state done" not in (shown := page.generate()):
        raise ValueError(f"the story was not made: {shown[:300]}")
    running.process.send_signal(signal.SIGINT)


def story_digest(folder: Path) -> str:
    record = json.loads((folder / "story.json").read_text())
    return record["frames_sha256"] + _bytes(folder, "*.mp4", "storyboard.json")


def run_digest(workdir: Path, step: int) -> str:
    from m2dit_jax.weights.orbax_files import open_arrays

    arrays = open_arrays(workdir / "checkpoints" / str(step) / "state")
    return _tensors(arrays) + _bytes(workdir, "metrics.jsonl")


def _arrays_digest(folder: Path) -> str:
    from m2dit_jax.weights.networks import ORBAX
    from m2dit_jax.weights.orbax_files import open_arrays

    return "".join(_tensors(open_arrays(path)) for path in sorted(folder.glob(f"*/{ORBAX}")))


def _tensors(arrays) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(name.encode() + arrays[name].read().tobytes())
    return digest.hexdigest()


def _bytes(folder: Path, *patterns: str) -> str:
    digest = hashlib.sha256()
    for path in sorted({path for pattern in patterns for path in folder.glob(pattern)}):
        if path.is_file():
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def without_times(path: Path) -> str:
    def kept(value):
        if isinstance(value, dict):
            return {key: kept(item) for key, item in value.items() if "seconds" not in key}
        return value

    return json.dumps(kept(json.loads(path.read_text())), sort_keys=True)
