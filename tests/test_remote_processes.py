"""Several processes whose only shared place is a bucket: killed, they go on to the same end."""

import pytest

from tests.buckets import BUCKET, s3_server
from tests.faults import run_digest
from tests.training.test_processes import STEPS, Pod

pytestmark = [pytest.mark.e2e, pytest.mark.multiprocess]


@pytest.mark.slow  # three runs of two processes; nothing else shows that each reads what one wrote
def test_processes_that_share_only_a_bucket_go_on_to_the_same_end(
    tiny_flags, tmp_path, monkeypatch
):
    def finish(workdir):
        pod = Pod(workdir, 2, tiny_flags)
        ends = pod.finish()
        assert [status for status, _ in ends] == [0, 0], ends

    with s3_server() as environment:
        for name, value in {**environment, "M2DIT_PUSH_SECONDS": "0.2"}.items():
            monkeypatch.setenv(name, value)
        url = f"s3://{BUCKET}/runs/two"
        monkeypatch.setenv("M2DIT_REMOTE_CACHE", str(tmp_path / "before"))
        pod = Pod(url, 2, tiny_flags, slow=True)
        pod.wait_for_step(7)
        pod.kill()
        for process in pod.processes:
            process.wait()
        # On other machines, which have nothing but the bucket.
        monkeypatch.setenv("M2DIT_REMOTE_CACHE", str(tmp_path / "after"))
        finish(url)
    finish(tmp_path / "shared")
    copies = [path for path in (tmp_path / "after").glob("*/two") if (path / "run.jsonl").is_file()]
    (first,) = [path for path in copies if (path / "checkpoints" / str(STEPS)).is_dir()]
    assert run_digest(first, STEPS) == run_digest(tmp_path / "shared", STEPS)
    assert f'"event": "start", "step": {STEPS - 8}' in (first / "run.jsonl").read_text()
