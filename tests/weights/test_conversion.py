import json
import os
import random
import shutil
import socket
from collections import namedtuple

import numpy as np
import pytest

from m2dit_jax.utils import digests
from m2dit_jax.weights import conversion
from m2dit_jax.weights.conversion import execute, is_written, make_plan
from m2dit_jax.weights.mapping import flatten
from m2dit_jax.weights.networks import ORBAX, load_params
from m2dit_jax.weights.safetensors_files import open_safetensors
from tests.rot import damaged
from tests.weights.tiny_models import (
    BFLOAT16,
    CONFIGS,
    FLOAT32,
    NETWORKS,
    files_of,
    tiny_model,
    tiny_network,
)


def convert(source, output, dtype=None, on_bytes=lambda nbytes: None, max_shard_bytes=2**60):
    execute(make_plan(source, output, None, dtype), on_bytes, max_shard_bytes)
    return output


class Interrupted(Exception):
    pass


def interrupt_after(nbytes):
    """Counts bytes, and ends the run when there are more than these."""
    counted = [0]

    def on_bytes(more):
        counted[0] += more
        if counted[0] > nbytes:
            raise Interrupted

    return on_bytes


@pytest.mark.slow
@pytest.mark.parametrize(
    "dtype, kinds",
    [
        (FLOAT32, ["transformer", "vae", "text_encoder"]),
        (BFLOAT16, ["transformer", "text_encoder"]),
    ],
)
def test_there_and_back_is_the_same_folder_to_the_byte(tmp_path, dtype, kinds):
    source = tiny_model(tmp_path / "source", dtype, kinds)
    orbax = convert(source, tmp_path / "orbax")
    assert all((orbax / kind / ORBAX / "_METADATA").is_file() for kind in kinds)
    assert not list(orbax.rglob("*.safetensors"))
    assert (orbax / "tokenizer/spiece.model").is_file()
    back = convert(orbax, tmp_path / "back")
    assert files_of(back) == files_of(source)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "orbax", "source"]


def test_shards_there_and_back(tmp_path):
    source = tiny_network(tmp_path / "source", "transformer", BFLOAT16, max_shard_bytes=3000)
    assert len(list(source.glob("*.safetensors"))) > 2
    orbax = convert(source, tmp_path / "orbax")
    assert sorted(path.name for path in orbax.glob("[!.]*")) == [
        "config.json",
        "digests.json",
        ORBAX,
    ]
    assert files_of(convert(orbax, tmp_path / "back", max_shard_bytes=3000)) == files_of(source)


def test_progress_counts_every_byte_once(tmp_path):
    source = tiny_model(tmp_path / "source")
    plan = make_plan(source, tmp_path / "orbax", None, None)
    seen = []
    execute(plan, seen.append)
    assert sum(seen) == sum(job.nbytes for job in plan.jobs)


def test_a_dtype_casts_and_is_noted_where_transformers_looks(tmp_path):
    source = tiny_model(tmp_path / "source")
    orbax = convert(source, tmp_path / "orbax", "bfloat16")
    back = convert(orbax, tmp_path / "back")
    for kind in ("transformer", "text_encoder"):
        before, after = open_safetensors(source / kind), open_safetensors(back / kind)
        for name, tensor in after.items():
            assert tensor.dtype == BFLOAT16
            np.testing.assert_array_equal(tensor.read(), before[name].read().astype(BFLOAT16))
    config = CONFIGS["text_encoder"] | {"torch_dtype": "bfloat16"}
    assert json.loads((orbax / "text_encoder/config.json").read_text()) == config
    kept = "transformer/config.json"
    assert (orbax / kept).read_bytes() == (source / kept).read_bytes()


def test_a_number_too_large_for_the_dtype_names_its_array(tmp_path):
    source = tiny_network(tmp_path / "source", "transformer")
    path = source / "diffusion_pytorch_model.safetensors"
    # the last number in the file becomes 2^127
    path.write_bytes(path.read_bytes()[:-4] + np.float32(2.0**127).tobytes())
    with pytest.raises(
        ValueError, match=r"blocks\.norm2\.scale: 1.7\d*e\+38 is too large for float16"
    ):
        convert(source, tmp_path / "orbax", "float16")
    assert not (tmp_path / "orbax").exists()


# --- refused before anything is written


def refused(message, source, output, to=None):
    before = files_of(source.parent)
    with pytest.raises(ValueError, match=message):
        make_plan(source, output, to, None)
    assert files_of(source.parent) == before


def test_all_networks_are_checked_before_anything_is_written(tmp_path):
    source = tiny_model(tmp_path / "source")
    for kind, change in {"transformer": {"num_layers": 2}, "text_encoder": {"d_ff": 9}}.items():
        (source / kind / "config.json").write_text(json.dumps(CONFIGS[kind] | change))
    with pytest.raises(ValueError) as caught:
        convert(source, tmp_path / "out")
    message = str(caught.value)
    assert f"{source}/transformer: 24 unexpected: transformer_blocks.2." in message
    assert f"{source}/text_encoder: 6 of another shape" in message
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_config_that_is_not_supported_is_named(tmp_path):
    source = tiny_network(tmp_path / "source", "text_encoder", feed_forward_proj="gated-gelu")
    config = CONFIGS["text_encoder"] | {"feed_forward_proj": "relu"}
    (source / "config.json").write_text(json.dumps(config))
    refused(rf"{source}/config\.json: .*feed_forward_proj", source, tmp_path / "out")


def test_a_form_that_the_source_already_has(tmp_path):
    source = tiny_network(tmp_path / "source", "transformer")
    refused(
        "is in the diffusers form already; needs --to=orbax", source, tmp_path / "x", "diffusers"
    )


def test_the_output_must_be_new_and_outside(tmp_path):
    source = tiny_network(tmp_path / "source", "transformer")
    (tmp_path / "there").mkdir()
    refused("there: exists", source, tmp_path / "there")
    refused("must not lie in the source", source, source / "orbax")


def test_a_full_disk(tmp_path, monkeypatch):
    source = tiny_network(tmp_path / "source", "transformer")
    usage = namedtuple("usage", "free")(10**8)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(ValueError, match=r"deep/out: needs about 100\.\d MB, 100\.0 MB are free"):
        convert(source, tmp_path / "deep" / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


# --- interrupted


@pytest.mark.slow
@pytest.mark.parametrize("form", ["orbax", "diffusers"])
def test_a_run_that_was_interrupted_goes_on(tmp_path, form):
    source = tiny_model(tmp_path / "source")
    if form == "diffusers":
        source = convert(source, tmp_path / "source2")
    whole = convert(source, tmp_path / "whole")
    output = tmp_path / "out"
    plan = make_plan(source, output, None, None)
    first, second = plan.jobs
    with pytest.raises(Interrupted):
        execute(plan, interrupt_after(first.nbytes + second.nbytes // 2))
    assert not output.exists()
    assert sorted(path.name for path in plan.partial.iterdir()) == [
        "model",
        "plan.json",
        "unfinished",
    ]
    assert plan.unfinished_jobs() == [second]

    seen = []
    convert(source, output, on_bytes=seen.append)
    assert sum(seen) == second.nbytes
    assert not plan.partial.exists()
    if form == "orbax":  # whose files have random names
        output, whole = convert(output, tmp_path / "a"), convert(whole, tmp_path / "b")
    assert files_of(output) == files_of(whole)


@pytest.mark.slow
@pytest.mark.parametrize("change", ["dtype", "source"])
def test_what_another_plan_has_left_is_not_used(tmp_path, change):
    source, output = tiny_model(tmp_path / "source"), tmp_path / "out"
    plan = make_plan(source, output, None, None)
    with pytest.raises(Interrupted):
        execute(plan, interrupt_after(plan.jobs[0].nbytes))
    if change == "source":
        shutil.rmtree(source / "transformer")
        tiny_network(source / "transformer", "transformer", BFLOAT16)
    seen = []
    convert(source, output, "bfloat16" if change == "dtype" else None, seen.append)
    assert sum(seen) < sum(job.nbytes for job in plan.jobs)  # all, in half of the bytes
    back = open_safetensors(convert(output, tmp_path / "back") / "transformer")
    assert {tensor.dtype for tensor in back.values()} == {BFLOAT16}


def test_a_folder_that_is_in_the_way_is_not_deleted(tmp_path):
    source = tiny_network(tmp_path / "source", "transformer")
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"out\.partial: is in the way"):
        convert(source, tmp_path / "out")
    assert (tmp_path / "out.partial" / "mine.txt").read_text() == "mine"


def test_a_network_alone_is_resumed_from_the_start(tmp_path):
    source = tiny_network(tmp_path / "source", "transformer")
    plan = make_plan(source, tmp_path / "out", None, None)
    with pytest.raises(Interrupted):
        execute(plan, interrupt_after(plan.jobs[0].nbytes // 2))
    assert not (tmp_path / "out").exists()
    assert files_of(convert(convert(source, tmp_path / "out"), tmp_path / "back")) == files_of(
        source
    )


def test_a_file_that_turns_out_damaged_leaves_nothing_whole(tmp_path):
    source = convert(tiny_network(tmp_path / "s", "transformer"), tmp_path / "source")
    plan = make_plan(source, tmp_path / "out", None, None)
    for file in source.glob("params/**/d/*"):
        file.write_bytes(b"")
    with pytest.raises(ValueError, match="params: needs a whole Orbax checkpoint"):
        execute(plan, lambda nbytes: None)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", ["orbax", "diffusers"])
def test_rot_is_never_silent(tmp_path, form):
    """100 damages of any file of a converted network: it is refused, or is as it was."""
    folder = convert(tiny_network(tmp_path / "source", "transformer"), tmp_path / "orbax")
    if form == "diffusers":
        folder = convert(folder, tmp_path / "back")
    network, rng, refused = NETWORKS["transformer"], random.Random(6), 0
    abstract = network.abstract(CONFIGS["transformer"])
    wanted = flatten(load_params(folder, network, abstract))
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    for _ in range(100):
        path = rng.choice(paths)
        good = path.read_bytes()
        path.write_bytes(damaged(good, rng))
        digests._read_before.clear()  # the clock of files may be too coarse
        try:
            found = flatten(load_params(folder, network, abstract))
            assert all(np.array_equal(found[name], wanted[name]) for name in wanted)
        except ValueError as error:
            assert str(folder) in str(error)
            refused += 1
        path.write_bytes(good)
    assert refused > 80


def test_every_file_of_a_converted_model_is_covered(tmp_path):
    folder = convert(tiny_model(tmp_path / "source"), tmp_path / "out")
    covered = {
        place.parent / name
        for place in folder.rglob("digests.json")
        for name in digests.read_digests(place.parent) or {}
    }
    assert covered == {
        path for path in folder.rglob("*") if path.is_file() and path.name != "digests.json"
    }
    scheduler = folder / "scheduler/scheduler_config.json"
    scheduler.write_text(scheduler.read_text().replace("1", "2"))
    with pytest.raises(ValueError, match=rf"{folder}: is damaged: scheduler/scheduler_config.json"):
        digests.check(folder)


def test_what_is_damaged_is_not_converted(tmp_path):
    folder = convert(tiny_network(tmp_path / "source", "transformer"), tmp_path / "orbax")
    config = folder / "config.json"
    config.write_text(config.read_text().replace("16", "32"))
    with pytest.raises(ValueError, match="config.json has changed"):
        make_plan(folder, tmp_path / "out", None, None)


def test_the_same_conversion_again_finds_it_whole(tmp_path, monkeypatch):
    source, out = tiny_network(tmp_path / "source", "transformer"), tmp_path / "out"
    with monkeypatch.context() as patch:  # as if killed after the last rename
        patch.setattr(conversion.shutil, "rmtree", lambda *args, **options: None)
        convert(source, out)
    assert (tmp_path / "out.partial").exists()
    plan = make_plan(source, out, None, None)
    assert is_written(plan)
    execute(plan, lambda nbytes: pytest.fail("nothing is read again"))
    assert not (tmp_path / "out.partial").exists()
    for other in ({"dtype": "float16"}, {"source": tiny_network(tmp_path / "2", "transformer")}):
        with pytest.raises(ValueError, match="out: exists; needs a folder that does not"):
            make_plan(other.get("source", source), out, None, other.get("dtype"))


def test_two_at_once_do_not_disturb_each_other(tmp_path):
    source, out = tiny_network(tmp_path / "source", "transformer"), tmp_path / "out"
    first, second = (make_plan(source, out, None, None) for _ in range(2))
    refused = []

    def meanwhile(nbytes):
        if not refused:
            with pytest.raises(ValueError) as error:
                execute(second, lambda more: None)
            refused.append(str(error.value))

    execute(first, meanwhile)
    assert refused == [
        f"{out}: process {os.getpid()} on {socket.gethostname()} is converting to it"
    ]
    execute(second, lambda more: None)  # finds it whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source"]
