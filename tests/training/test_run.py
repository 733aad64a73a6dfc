import pytest

from m2dit_jax.config.schema import Config
from m2dit_jax.models.attention.target import Target
from m2dit_jax.training import run


class Stopped(Exception):
    """Ends a preparation before anything is compiled."""


@pytest.mark.parametrize(("attention", "told"), [("auto", True), ("chunked", False)])
def test_a_gpu_without_cudnns_attention_is_told_once(
    attention, told, tiny_config, tmp_path, monkeypatch, capsys
):
    def stop(*arguments):
        raise Stopped

    monkeypatch.setattr(run, "make_train_program", stop)
    monkeypatch.setattr(run, "target_of", lambda mesh: Target("gpu", (7, 5), "Tesla T4"))
    tiny_config.model.attention = attention
    with pytest.raises(Stopped):
        run.prepare(Config.from_dict(tiny_config), tmp_path)
    assert capsys.readouterr().out.count("Tesla T4: cuDNN's attention needs") == told
