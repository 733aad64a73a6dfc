import shutil

import numpy as np
import pytest

from m2dit_jax.diffusion.schedule import NoiseSchedule
from m2dit_jax.tools.parity.functions import reference_draws
from m2dit_jax.tools.parity.models import ReferenceModels
from m2dit_jax.tools.parity.networks import LARGE_TABLE_LIMIT, TABLE_LIMIT, rope_limit


@pytest.fixture(scope="module")
def models(golden) -> ReferenceModels:
    return ReferenceModels(golden)


def test_the_model_of_a_file_is_in_its_name(models):
    assert models.pipeline_names() == ["2b", "5b"]
    assert models.pipeline_of("extend_5b_dyncfg").folder.path.name == "pipe_5b"
    assert models.pipeline_of("2b_cond") is models.pipeline("2b")
    assert models.transformer_of("fwd_5b_n3").path.parent.name == "pipe_5b"
    assert models.transformer_of("cond_1_5_n3").path.name == "transformer_1_5"
    with pytest.raises(ValueError, match="no model folder belongs to fwd_15b; there are .*2b, 5b"):
        models.transformer_of("fwd_15b")


def test_the_longest_name_counts(golden, tmp_path):
    for name in ("pipe_5b", "transformer_5b_longtext", "transformer_5b_long"):
        folder = tmp_path / name
        if name == "pipe_5b":
            shutil.copytree(golden / name, folder)
        else:
            shutil.copytree(golden / "pipe_5b/transformer", folder)
    models = ReferenceModels(tmp_path)
    for case, folder in {
        "fwd_5b_longtext_n2": "transformer_5b_longtext",
        "fwd_5b_long_n2": "transformer_5b_long",
    }.items():
        assert models.transformer_of(case).path.name == folder
    assert models.transformer_of("fwd_5b_longer").path.parent.name == "pipe_5b"


def test_files_without_a_model_in_their_name_belong_to_5b_or_the_first(golden, tmp_path):
    with pytest.raises(ValueError, match="has no folder pipe_"):
        ReferenceModels(tmp_path).main_pipeline()
    for name, expected in (("pipe_9b", "pipe_9b"), ("pipe_1b", "pipe_1b"), ("pipe_5b", "pipe_5b")):
        shutil.copytree(golden / "pipe_2b", tmp_path / name)
        assert ReferenceModels(tmp_path).main_pipeline().folder.path.name == expected


def test_models_are_loaded_once(models):
    assert models.pipeline("5b") is models.pipeline("5b")
    assert models.transformer_of("cond_1_5_n3") is models.transformer_of("fwd_1_5_n2")
    transformer = models.transformer_of("cond_1_5_n3")
    assert transformer.network is transformer.network
    assert transformer.text_length == 12


def test_the_reference_draws_twice_in_second_order_steps():
    # The first step and those to the clean latents are of first order.
    np.testing.assert_array_equal(reference_draws(NoiseSchedule(), 5), [1, 2, 2, 2, 1])
    # 7 steps end at timestep 0, 61 steps at -1, which needs no noise either.
    np.testing.assert_array_equal(reference_draws(NoiseSchedule(), 7), [1, 2, 2, 2, 2, 2, 2])
    np.testing.assert_array_equal(reference_draws(NoiseSchedule(), 61), [1, *[2] * 59, 1, 1])
    np.testing.assert_array_equal(reference_draws(NoiseSchedule(), 1), [1])


def test_rotary_tables_of_far_positions_may_be_off_further():
    assert rope_limit((9, 3, 4), (4, 6)) == rope_limit((16, 16, 16), None) == TABLE_LIMIT
    for grid, base in (((17, 1, 1), None), ((1, 2, 2), (30, 45)), ((1, 1, 60), (2, 2))):
        assert rope_limit(grid, base) == LARGE_TABLE_LIMIT
