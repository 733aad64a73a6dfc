import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from m2dit_jax.parallel.mesh import make_mesh
from m2dit_jax.weights.lazy import Leaf, Tensor
from m2dit_jax.weights.placing import layer_rows, place_layers

REPOSITORY = Path(__file__).parents[2]
VALUES = np.arange(5 * 8 * 3, dtype=np.float32).reshape(5, 8, 3)


def stacked(values, read):
    """A leaf whose layers note their numbers in `read` when they are read."""
    return Leaf(
        tuple(
            Tensor(x.shape, x.dtype, lambda x=x, layer=layer: (read.append(layer), x)[1])
            for layer, x in enumerate(values)
        ),
        True,
    )


def test_by_hand():
    assert layer_rows(5, 3) == [0, 2, 3, 4, 5]
    assert layer_rows(4, 2) == [0, 1, 2, 3]
    assert layer_rows(2, 4) == [1, 3]


@pytest.mark.parametrize(("layers", "devices"), [(42, 32), (42, 8), (30, 7), (3, 8), (1, 1)])
def test_devices_have_equal_parts_but_for_one_layer(layers, devices):
    rows = layer_rows(layers, devices)
    assert rows == sorted(set(rows)) and len(rows) == layers
    counts = np.bincount([row // -(-layers // devices) for row in rows], minlength=devices)
    assert len(counts) == devices and counts.max() - counts.min() <= 1


def _placed(sizes, spec):
    read = []
    mesh = make_mesh(dict(zip(("data", "fsdp", "context"), sizes, strict=True)))
    sharding = NamedSharding(mesh, PartitionSpec(*spec))
    array = place_layers(stacked(VALUES, read), sharding)
    shapes = {shard.data.shape for shard in array.addressable_shards}
    return np.asarray(array), array.sharding == sharding, shapes, read


@pytest.mark.parametrize(
    ("sizes", "spec", "shape"),
    [
        ((1, 8, 1), (None, ("fsdp", "context"), None), (5, 1, 3)),
        ((2, 2, 2), (None, ("fsdp", "context"), None), (5, 2, 3)),
        ((1, 4, 2), (), (5, 8, 3)),
    ],
)
def test_every_layer_is_read_once_and_ends_where_it_belongs(on_eight_devices, sizes, spec, shape):
    values, same, shapes, read = on_eight_devices(_placed, sizes, spec)
    np.testing.assert_array_equal(values, VALUES)
    assert same and shapes == {shape}
    assert sorted(read) == list(range(5))


# Loads a model folder's transformer on all processes and says which share of its bytes was read.
PROGRAM = """
import sys
import jax, numpy as np
from m2dit_jax.models.families import DEFAULT
from m2dit_jax.parallel.mesh import make_mesh
from m2dit_jax.parallel.rules import with_shardings
from m2dit_jax.weights import networks
from m2dit_jax.weights.lazy import Tensor
folder, port, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
jax.distributed.initialize(f"127.0.0.1:{port}", 2, number)
network = DEFAULT.transformer
mesh = make_mesh({"data": 1, "fsdp": -1, "context": 1})
abstract = with_shardings(network.abstract(networks.read_config(networks.Path(folder))), mesh)
read, open_safetensors = [], networks.open_safetensors
def counting(directory):
    def counted(x):
        return Tensor(x.shape, x.dtype, lambda: (read.append(x.nbytes), x.read())[1])
    return {name: counted(x) for name, x in open_safetensors(directory).items()}
networks.open_safetensors = counting
params = networks.load_params(networks.Path(folder), network, abstract)
total = sum(x.nbytes for x in open_safetensors(networks.Path(folder)).values())
norm = jax.jit(lambda tree: sum((x.astype("float32") ** 2).sum() for x in jax.tree.leaves(tree)))
print(f"share {sum(read) / total:.3f} norm {float(norm(params)):.3f}")
"""


@pytest.mark.multiprocess
@pytest.mark.e2e
def test_two_processes_read_about_half_each(tmp_path):
    from tests.weights.tiny_models import tiny_network

    folder = tiny_network(
        tmp_path / "transformer",
        "transformer",
        num_layers=10,
        num_attention_heads=4,
        text_embed_dim=8,
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(folder), str(port), str(number)],
            cwd=REPOSITORY,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    lines = [process.communicate(timeout=300)[0].splitlines()[-1].split() for process in processes]
    assert all(process.returncode == 0 for process in processes)
    shares = [float(line[1]) for line in lines]
    assert max(shares) < 0.6, shares
    assert lines[0][3] == lines[1][3]
    from m2dit_jax.weights.safetensors_files import open_safetensors

    expected = sum(float((x.read() ** 2).sum()) for x in open_safetensors(folder).values())
    assert float(lines[0][3]) == pytest.approx(expected, rel=1e-4)
