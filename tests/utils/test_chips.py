import pytest

from m2dit_jax.utils.chips import CHIPS, GIB, find_chip


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("NVIDIA A100-SXM4-40GB", "a100_40"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
    ],
)
def test_cards_are_known_by_their_name(kind, name):
    assert find_chip(kind) is CHIPS[name]


@pytest.mark.parametrize(
    "kind", ["NVIDIA L40", "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA GeForce RTX 3060 Ti"]
)
def test_others_with_such_a_beginning_are_not_taken_for_them(kind):
    assert find_chip(kind) is None


@pytest.mark.parametrize("name", [n for n in CHIPS if n != "cpu"])
def test_every_figure_has_a_source_and_a_sensible_size(name):
    chip = CHIPS[name]
    assert all(chip.sources) and 8 * GIB < chip.memory_bytes < 200 * GIB
    assert 2e13 < chip.flops < 3e15 and 2e11 < chip.memory_bandwidth < 1e13
    assert chip.host_bandwidth is None or 1e10 < chip.host_bandwidth < 1e11


def test_eight_lanes_carry_half_of_sixteen():
    host = CHIPS["rtx4090"].host_bandwidth
    assert host is not None and CHIPS["rtx4060ti"].host_bandwidth == host / 2
    assert host == pytest.approx(31.5e9, rel=1e-3)
