from dataclasses import asdict, replace

import pytest

from m2dit_jax.config.schema import Config
from m2dit_jax.tools.planning import search
from m2dit_jax.tools.planning.topologies import Machine
from m2dit_jax.utils.chips import CHIPS
from tests.tools.planning.test_report import FIGURES, PLAN

MACHINE = Machine("h100:4", CHIPS["h100"], "cuda", (None,) * 4, 4)


def test_meshes_shard_tokens_over_no_more_devices_than_heads():
    shapes = [tuple(mesh.values()) for mesh in search.meshes(64, 48)]
    assert shapes == [(1, 64, 1), (1, 32, 2), (1, 16, 4), (1, 8, 8), (1, 4, 16), (1, 2, 32)]


@pytest.fixture
def tried(monkeypatch):
    """Plans without compiling: two stories on a device are too many, and only full remat fits."""
    made = []

    def make_plan(recipe, machine, mode):
        config = recipe.config
        each = config.train.batch_size // config.mesh.fsdp
        fits = each == 1 and config.model.remat in ("full", "attention")
        seconds = {"full": 4.0, "attention": 3.0}.get(config.model.remat, 1.0)
        made.append((config.mesh.fsdp, config.model.remat, each))
        return replace(
            PLAN,
            mesh=asdict(config.mesh),
            stories=config.train.batch_size,
            remat=config.model.remat,
            peak_bytes=2**30 if fits else 2**37,
            figures=replace(FIGURES, roofline=FIGURES.roofline._replace(compute=seconds)),
        )

    monkeypatch.setattr(search, "make_plan", make_plan)
    return made


def test_search_goes_on_while_something_fits_and_ranks(tried, tiny_config, capsys):
    tiny_config.model.heads = 2
    plans = search.search(Config.from_dict(tiny_config), MACHINE)
    of_each_mesh = [("full", 1), ("full", 2), ("attention", 1), ("matrices", 1)]
    assert tried == [(fsdp, *what) for fsdp in (4, 2) for what in of_each_mesh]
    best = [(plan.mesh["fsdp"], plan.remat, plan.fits) for plan in plans[:3]]
    assert best == [(4, "attention", True), (4, "full", True), (2, "attention", True)]
    assert len(capsys.readouterr().err.splitlines()) == len(plans)
    table = search.table(plans).splitlines()
    assert len(table) == len(plans) + 1 and table[1].startswith("yes")
    assert "fsdp 4" in table[1] and "attention" in table[1]
