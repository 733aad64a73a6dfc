import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from m2dit_jax.parallel.mesh import AXES, PARAMETERS
from m2dit_jax.parallel.rules import path_name, sharding_table, shardings, spec_of

CUT = PARAMETERS


def mesh(*sizes):
    return AbstractMesh(sizes, AXES, axis_types=(AxisType.Auto,) * 3)


@pytest.mark.parametrize(
    ("path", "shape", "spec"),
    [
        ("params/transformer/blocks/attention/to_q/kernel", (42, 3072, 3072), (None, CUT, None)),
        ("opt_state/1/mu/transformer/blocks/mlp/linear_2/kernel", (42, 12, 8), (None, None, CUT)),
        ("ema/transformer/patch_embed/kernel", (64, 3072), (CUT, None)),
        ("params/transformer/time_embedding/linear_1/kernel", (3, 16), (None, CUT)),
        ("params/transformer/proj_out/kernel", (3, 5), ()),  # nothing divides
        ("params/transformer/blocks/norm1/scale", (42, 3072), ()),
        ("params/text_encoder/embedding/embedding", (32, 16), (CUT, None)),
        ("step", (), ()),
    ],
)
def test_matrices_are_cut_where_they_divide(path, shape, spec):
    assert spec_of(path, shape, mesh(2, 2, 4)) == PartitionSpec(*spec)


def test_a_layer_is_cut_as_its_stack_is():
    stacked = spec_of("blocks/mlp/linear_1/kernel", (42, 64, 256), mesh(1, 8, 1))
    single = spec_of("mlp/linear_1/kernel", (64, 256), mesh(1, 8, 1))
    assert tuple(stacked)[1:] == tuple(single)


@pytest.mark.slow
def test_the_state_of_every_optimizer_follows_its_parameters(on_eight_devices):
    on_eight_devices(_check_optimizer_state)


def _check_optimizer_state():
    from configs.base import get_config
    from m2dit_jax.config.recipe import build_recipe
    from m2dit_jax.parallel.mesh import make_mesh
    from m2dit_jax.training.first_state import state_shapes
    from m2dit_jax.training.optimizer import make_optimizer

    for optimizer in ("adamw", "muon"):
        config = get_config()
        config.train.optimizer = optimizer
        config.mesh.fsdp, config.mesh.data = 8, 1
        recipe = build_recipe(config)
        state = state_shapes(recipe, make_optimizer(recipe.config.train, True))
        cut = shardings(state, make_mesh(config.mesh.to_dict()))
        by_shape = {}
        for path, x in jax.tree_util.tree_leaves_with_path(state):
            place = dict(jax.tree_util.tree_leaves_with_path(cut))[path]
            if "kernel" in path_name(path) and "blocks" in path_name(path):
                by_shape.setdefault(x.shape, set()).add(place.spec)
                whole, part = np.prod(x.shape), np.prod(place.shard_shape(x.shape))
                assert part == whole / 8, path_name(path)
        assert by_shape and all(len(specs) == 1 for specs in by_shape.values())


def test_the_table_has_every_array_and_the_sum():
    tree = {"a": {"kernel": jnp.zeros((8, 4))}, "b": jnp.zeros((3,), jnp.bfloat16)}
    table = sharding_table(tree, mesh(1, 2, 2)).splitlines()
    assert table[1].split() == ["a/kernel", "8x4", "(fsdp+context,", "-)", "32"]
    assert table[2].split() == ["b", "3", "()", "6"]
    assert table[-1] == "2 arrays, 38 bytes per device"
