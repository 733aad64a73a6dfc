import jax
import pytest

from m2dit_jax.tools.planning.cache import keep_executables

OPTIONS = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)


@pytest.mark.filterwarnings("ignore")
def test_everything_is_kept_in_the_folder(tmp_path):
    before = {name: jax.config.values[name] for name in OPTIONS}
    try:
        keep_executables(tmp_path / "new" / "folder")
        assert (tmp_path / "new" / "folder").is_dir()
        kept = [jax.config.values[name] for name in OPTIONS]
        assert kept == [str(tmp_path / "new" / "folder"), 0.0, 0]
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
