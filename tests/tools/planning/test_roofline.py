from dataclasses import replace

import pytest

from m2dit_jax.tools.planning.collectives import Collective
from m2dit_jax.tools.planning.roofline import roofline
from m2dit_jax.utils.chips import CHIPS

CHIP = replace(
    CHIPS["h100"], flops=1e3, memory_bandwidth=1e2, link_bandwidth=10.0, node_bandwidth=1.0
)


def collective(per_node):
    return Collective("all-to-all", 30, 2, 4, float(per_node), (), "bf16", "", "")


def test_the_slowest_part_bounds_the_step():
    line = roofline(CHIP, 5000, 300, [collective(4)])
    assert line == (5, 3, 6)
    assert (line.bound, line.bound_by) == (6, "network")
    assert roofline(CHIP, 9000, 300, [collective(4)]).bound_by == "compute"


def test_between_nodes_the_network_is_slower():
    # Two of three other devices are in the other node.
    assert roofline(CHIP, 0, 0, [collective(2)]).network == pytest.approx(40)
    alone = replace(CHIP, node_bandwidth=None)
    assert roofline(alone, 0, 0, [collective(2)]).network == pytest.approx(6)


@pytest.mark.parametrize("kind", CHIPS)
def test_every_chip_has_figures_and_their_source(kind):
    chip = CHIPS[kind]
    assert chip.sources and all(chip.sources)
    assert chip.memory_bytes >= 8 * 2**30 and chip.flops >= 1e12
    # An accelerator reads its memory faster than other chips' memory.
    assert chip.memory_bandwidth > chip.link_bandwidth > (chip.node_bandwidth or 0)
