from m2dit_jax.utils.remote.bucket import Bucket
from m2dit_jax.utils.remote.latest_step import latest_step
from m2dit_jax.utils.remote.mirror import Mirror


def test_the_newest_step_that_is_whole_in_the_bucket(url, tmp_path):
    assert latest_step(url) == 0
    mirror = Mirror(Bucket(url), tmp_path / "run")
    for step in ("8", "12", "16.orbax-checkpoint-tmp"):
        folder = tmp_path / "run" / "checkpoints" / step
        folder.mkdir(parents=True)
        (folder / "a").write_text("1")
    mirror.push()
    assert latest_step(url) == 12
