import subprocess
import sys

import jax
import pytest
from ml_collections import ConfigDict

from m2dit_jax.parallel.mesh import make_mesh


def test_minus_one_takes_all_devices():
    assert dict(make_mesh(ConfigDict({"data": -1})).shape) == {"data": jax.device_count()}


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"data": 3}, "needs 3 devices, but there are 1"),
        ({"data": -1, "fsdp": -1}, "at most one -1"),
        ({"data": 0}, "at least 1"),
    ],
)
def test_impossible_meshes_are_refused(axes, message):
    with pytest.raises(ValueError, match=message):
        make_mesh(ConfigDict(axes))


def test_a_batch_is_cut_over_the_devices():
    program = """
import jax
jax.config.update("jax_num_cpu_devices", 4)
from ml_collections import ConfigDict
from m2dit_jax.parallel.mesh import batch_sharding, make_mesh, replicated
mesh = make_mesh(ConfigDict({"data": -1}))
x = jax.device_put(jax.numpy.zeros((8, 3)), batch_sharding(mesh))
y = jax.device_put(jax.numpy.zeros((8, 3)), replicated(mesh))
print([s.data.shape for s in x.addressable_shards], [s.data.shape for s in y.addressable_shards])
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.stdout.strip() == f"{[(2, 3)] * 4} {[(8, 3)] * 4}", run.stderr
