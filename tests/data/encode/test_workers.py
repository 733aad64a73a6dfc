import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from m2dit_jax.data.encode.workers import Failure, WorkerPool

# Work must be importable in a worker process, so that it comes from the standard library here.


@pytest.mark.slow
def test_results_come_in_order():
    with WorkerPool(abs, workers=2, time_limit=60) as pool:
        assert list(pool.map(range(0, -20, -1), ahead=4)) == list(range(20))
        assert list(pool.map([], ahead=4)) == []


def test_items_are_taken_as_they_are_needed():
    taken = []

    def items():
        for number in range(100):
            taken.append(number)
            yield number

    with WorkerPool(abs, workers=1, time_limit=60) as pool:
        results = pool.map(items(), ahead=3)
        assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
        assert len(taken) <= 5 + 3


def test_errors_are_failures_of_their_item():
    with WorkerPool(int, workers=1, time_limit=60) as pool:
        results = list(pool.map(["1", "x", [], "2"], ahead=2))
    assert results[0] == 1 and results[3] == 2
    assert results[1] == Failure("invalid literal for int() with base 10: 'x'")
    assert "TypeError" in results[2].reason


@pytest.mark.slow
def test_a_hanging_item_is_given_up():
    started = time.monotonic()
    with WorkerPool(time.sleep, workers=1, time_limit=1.0) as pool:
        results = list(pool.map([0.0, 60.0, 0.0], ahead=3))
    assert results == [None, Failure("took longer than 1 s"), None]
    assert time.monotonic() - started < 30


def test_a_crash_takes_only_its_item_along():
    with WorkerPool(signal.raise_signal, workers=1, time_limit=60) as pool:
        results = list(pool.map([signal.SIGSEGV, signal.SIGCHLD, signal.SIGKILL], ahead=1))
    assert results == [
        Failure("the worker process was ended by SIGSEGV"),
        None,
        Failure("the worker process was ended by SIGKILL"),
    ]


def test_leaving_ends_workers_that_hang():
    started = time.monotonic()
    with WorkerPool(time.sleep, workers=2, time_limit=600) as pool:
        for _ in pool.map([0, 600, 600, 600], ahead=4):
            break
    assert time.monotonic() - started < 30


def test_workers_end_with_a_parent_that_was_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent("""
        import time, os
        from m2dit_jax.data.encode.workers import WorkerPool
        if __name__ == "__main__":
            with WorkerPool(time.sleep, workers=1, time_limit=1000) as pool:
                for _ in pool.map([0, 0], ahead=1):
                    print(pool._all[0]._process.pid, flush=True)
                    time.sleep(600)
        """)
    )
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    command = [sys.executable, str(script)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + 30
    while _is_alive(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _is_alive(worker)


def _is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(("workers", "limit"), [(0, 1.0), (1, 0.0), (1, float("inf"))])
def test_impossible_pools(workers, limit):
    with pytest.raises(ValueError, match="needs workers and a time limit"):
        WorkerPool(abs, workers, limit)
