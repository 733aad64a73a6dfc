"""Encoding on a Ray cluster, of which a worker is killed: the same bytes as from one host."""

import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from m2dit_jax import encode
from tests.test_encode import COLOURS, PIXELS, contents, of_manifest, write_manifest, write_video

pytestmark = [pytest.mark.e2e, pytest.mark.slow]  # a cluster is started, and JAX in each worker


@pytest.fixture(scope="module")
def cluster():
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Else a busy machine leaves nothing for them; Ray reads it in these letters.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
    ray = pytest.importorskip("ray", reason="optional extra: ray")
    before = signal.getsignal(signal.SIGTERM)
    options = {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    ray.init(num_cpus=2, log_to_driver=False, object_store_memory=80_000_000, **options)
    yield ray
    ray.shutdown()
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def manifest(tmp_path):
    """Five stories, of which one has a video that is broken."""
    for name, colour in COLOURS.items():
        write_video(tmp_path / f"{name}.mp4", colour=colour)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    names = [*(f"{name}.mp4" for name in COLOURS), "broken.mp4"]
    write_manifest(tmp_path / "many.jsonl", {f"s{n}": [names[n % 4]] for n in range(5)})
    return tmp_path / "many.jsonl"


def kill_a_worker(records, killed, ended):
    """Kills a worker that has a shard under way, when one is finished."""
    while not killed and not ended.is_set():
        if list(records.glob("0*.json")):
            for process in psutil.process_iter(["cmdline"]):
                if (process.info["cmdline"] or [])[:1] == ["ray::Encoder.encode"]:
                    process.send_signal(signal.SIGKILL)
                    killed.append(process.pid)
                    return
        time.sleep(0.05)


def test_a_cluster_of_which_a_worker_is_killed_makes_the_bytes_of_one_host(
    cluster, manifest, tmp_path, capsys
):
    flags = [*PIXELS, "--shard_scenes=1", "--workers=1"]
    assert encode.main([*of_manifest(manifest, tmp_path / "one"), *flags]) == 0
    on_ray = [*of_manifest(manifest, tmp_path / "ray"), *flags, "--engine=ray"]
    killed: list[int] = []
    ended = threading.Event()
    records = tmp_path / "ray" / "progress"
    killer = threading.Thread(target=kill_a_worker, args=(records, killed, ended))
    killer.start()
    capsys.readouterr()
    status = encode.main(on_ray)
    ended.set()
    killer.join()
    printed = capsys.readouterr()
    assert status == 0 and killed, printed.err
    assert "room for 2 workers of 1 CPU" in printed.err
    assert "its worker died; another does it again" in printed.err
    assert "5 shards" in printed.out and "skipped 1 scenes" in printed.out
    assert contents(tmp_path / "ray") == contents(tmp_path / "one")

    # What is finished is found so, and what was begun with other settings is refused.
    assert encode.main(on_ray) == 0
    assert "was finished before" in capsys.readouterr().out
    assert encode.main([*on_ray, "--seed=3"]) == 2
    assert "was begun with other settings" in capsys.readouterr().err


def test_ctrl_c_ends_the_cluster_that_the_command_has_started(manifest, tmp_path):
    pytest.importorskip("ray", reason="optional extra: ray")
    flags = [*of_manifest(manifest, tmp_path / "set"), *PIXELS, "--shard_scenes=1", "--workers=1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "m2dit_jax.encode", *flags, "--engine=ray"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "writing to" in line:  # the parts are handed out now
            break
    started = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    printed = process.stderr.read()
    assert process.wait() == 130 and "Traceback" not in printed, printed
    assert printed.endswith("interrupted; the same command goes on with what is finished\n")
    assert started and not psutil.wait_procs(started, timeout=20)[1]


def test_a_cluster_without_room_and_flags_that_do_not_go_together(cluster, manifest, capsys):
    flags = [*of_manifest(manifest, manifest.parent / "set"), *PIXELS, "--engine=ray"]
    assert encode.main([*flags, "--workers=64"]) == 2
    assert "no node of the Ray cluster has what a worker takes: 64 CPUs" in capsys.readouterr().err
    assert encode.main([*flags, "--part=1/2"]) == 2
    assert "--part and --join cannot go with --engine" in capsys.readouterr().err


def test_without_ray_the_extra_is_named(manifest, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    flags = [*of_manifest(manifest, manifest.parent / "set"), *PIXELS, "--engine=ray"]
    assert encode.main(flags) == 2
    assert 'pip install "m2dit_jax[ray]"' in capsys.readouterr().err
