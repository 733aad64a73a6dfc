import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from m2dit_jax.tools.planning.memory import bytes_that_did_not_fit, local_bytes, program_bytes


def test_local_bytes_of_what_is_there_and_what_is_not():
    mesh = Mesh(np.array(jax.devices()[:1]), ("x",))
    shape = jax.ShapeDtypeStruct(
        (4, 6), jnp.bfloat16, sharding=NamedSharding(mesh, PartitionSpec())
    )
    assert local_bytes({"a": shape, "b": (jnp.zeros(3), None)}) == 48 + 12


def test_donated_memory_counts_once():
    x = jax.ShapeDtypeStruct((1024, 1024), jnp.float32)
    kept, donated = (
        program_bytes(jax.jit(lambda x: x + 1, donate_argnums=given).lower(x).compile())
        for given in ((), 0)
    )
    assert kept - donated == 4 * 2**20 and donated >= 4 * 2**20


def test_the_compilers_messages_that_it_is_too_much():
    whole = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 105.50G of 95.74G hbm."
    assert bytes_that_did_not_fit(whole, 7) == int(105.5 * 2**30)
    temporaries = (
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
        "temporaries (36.67G) exceeds available HBM (15.75G)."
    )
    assert bytes_that_did_not_fit(temporaries, 7) == int(36.67 * 2**30) + 7
    assert bytes_that_did_not_fit("INTERNAL: something else", 7) is None
