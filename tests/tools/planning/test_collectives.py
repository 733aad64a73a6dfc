import numpy as np
import pytest

from m2dit_jax.tools.planning.collectives import bytes_by_kind, find_collectives
from m2dit_jax.tools.planning.hlo import parse

HEAD = "HloModule m, num_partitions=8\n\nENTRY %main (x: bf16[16,4]) -> bf16[16,4] {\n"
START = "  %x = bf16[16,4]{1,0} parameter(0)\n"  # 128 bytes


def module_of(line):
    return parse(HEAD + START + line + "\n}\n")


@pytest.mark.parametrize(
    ("line", "kind", "received", "group"),
    [
        (
            "  ROOT %g = bf16[64,4]{1,0} all-gather(%x), replica_groups={{0,1,2,3},{4,5,6,7}}",
            "all-gather",
            3 * 128,
            4,
        ),
        (
            "  %g = (bf16[16,4]{1,0}, bf16[128,4]{1,0}) all-gather-start(%x), "
            "replica_groups=[1,8]<=[8]",
            "all-gather",
            7 * 128,
            8,
        ),
        (
            "  ROOT %g = bf16[4,4]{1,0} reduce-scatter(%x), replica_groups=[2,4]<=[4,2]T(1,0)",
            "reduce-scatter",
            3 * 32,
            4,
        ),
        (
            "  ROOT %g = bf16[16,4]{1,0} all-reduce(%x), replica_groups={}, to_apply=%sum",
            "all-reduce",
            2 * 7 * 16,
            8,
        ),
        (
            "  ROOT %g = bf16[16,4]{1,0} all-to-all(%x), replica_groups={{0,1},{2,3},{4,5},{6,7}}",
            "all-to-all",
            64,
            2,
        ),
        (
            "  ROOT %g = bf16[16,4]{1,0} collective-permute(%x), source_target_pairs={{0,1},{1,0}}",
            "collective-permute",
            128,
            2,
        ),
    ],
)
def test_bytes_that_one_device_receives(line, kind, received, group):
    (found,) = find_collectives(module_of(line), per_node=8)
    assert (found.kind, found.bytes, found.group, found.count) == (kind, received, group, 1)
    assert bytes_by_kind([found, found]) == {kind: 2 * received}
    assert found.from_other_nodes == 0


def test_groups_along_axes_of_a_mesh():
    for axes, group, nodes in (("'x'", 2, 2), ("'y'", 4, 1), ("'x','y'", 8, 2)):
        line = (
            f"  ROOT %g = bf16[1]{{0}} all-gather(%x), replica_groups=mesh['x'=2,'y'=4] {{{axes}}}"
        )
        (found,) = find_collectives(module_of(line), per_node=4)
        assert (found.group, found.group / found.per_node) == (group, nodes)


def test_devices_of_a_mesh_in_an_order_of_their_own():
    # In the order 0 4 1 5 2 6 3 7: pairs reach over to the other node.
    line = (
        "  ROOT %g = bf16[1]{0} all-gather(%x), "
        "replica_groups=mesh['x'=4,'y'=2], device_ids=([2,4]T(1,0)) {'y'}"
    )
    (found,) = find_collectives(module_of(line), per_node=4)
    assert (found.group, found.per_node) == (2, 1)


def test_nodes_share_what_they_gather_but_not_what_they_swap():
    gather = "  ROOT %g = bf16[128,4]{1,0} all-gather(%x), replica_groups=[1,8]<=[8]"
    (gathered,) = find_collectives(module_of(gather), per_node=4)
    # Half of the 8 pieces lie in the other node; each of the 4 devices here fetches one of them.
    np.testing.assert_allclose(gathered.from_other_nodes, 128)
    swap = "  ROOT %g = bf16[16,4]{1,0} all-to-all(%x), replica_groups=[1,8]<=[8]"
    (swapped,) = find_collectives(module_of(swap), per_node=4)
    np.testing.assert_allclose(swapped.from_other_nodes, 4 * 16)


def test_a_group_within_a_node_needs_no_network_between_nodes():
    line = "  ROOT %g = bf16[64,4]{1,0} all-gather(%x), replica_groups=[2,4]<=[8]"
    (found,) = find_collectives(module_of(line), per_node=4)
    assert (found.per_node, found.from_other_nodes) == (4, 0)
