"""Which part of an encoding a host does, and that two do not do the same."""

import pytest

from m2dit_jax.data.encode.parts import (
    Part,
    begun_parts,
    read_part,
    writing_all,
    writing_part,
)

SLURM = {
    "SLURM_ARRAY_TASK_ID": "7",
    "SLURM_ARRAY_TASK_MIN": "5",
    "SLURM_ARRAY_TASK_COUNT": "4",
}


def test_parts_have_each_shard_once():
    for total in (0, 1, 3, 10):
        found = [shard for n in range(1, 5) for shard in Part(n, 4).shards(total)]
        assert sorted(found) == list(range(total))


@pytest.mark.parametrize(
    ("text", "environment", "wanted"),
    [
        ("2/4", {}, Part(2, 4)),
        ("2/4", SLURM, Part(2, 4)),
        ("auto", SLURM, Part(3, 4)),
        ("auto", {**SLURM, "SLURM_ARRAY_TASK_STEP": "2"}, Part(2, 4)),
        ("auto", {"JOB_COMPLETION_INDEX": "0", "M2DIT_PARTS": "3"}, Part(1, 3)),
        ("auto", {"TPU_WORKER_ID": "1", "TPU_WORKER_HOSTNAMES": "a,b"}, Part(2, 2)),
        (
            "auto",
            {
                **{"TPU_WORKER_ID": "1", "TPU_WORKER_HOSTNAMES": "a,b"},
                **{"MEGASCALE_SLICE_ID": "2", "MEGASCALE_NUM_SLICES": "3"},
            },
            Part(6, 6),
        ),
    ],
)
def test_a_part_is_named_or_found(text, environment, wanted):
    assert read_part(text, environment) == wanted


@pytest.mark.parametrize(
    ("text", "environment", "problem"),
    [
        ("0/4", {}, "--part=0/4: is part 0 of 4"),
        ("5/4", {}, "is part 5 of 4"),
        ("1/100001", {}, "at most 100000"),
        ("1", {}, "found '1', needs I/N such as 2/4, or auto"),
        ("auto", {}, "needs an array of SLURM"),
        ("auto", {"JOB_COMPLETION_INDEX": "0"}, "M2DIT_PARTS"),
        ("auto", {**SLURM, "SLURM_ARRAY_TASK_ID": "9"}, "SLURM_ARRAY_TASK_ID is 9; the array"),
        ("auto", {**SLURM, "SLURM_ARRAY_TASK_STEP": "4"}, "must have no gaps"),
        ("auto", {**SLURM, "SLURM_ARRAY_TASK_MIN": "x"}, "SLURM_ARRAY_TASK_MIN is 'x'"),
    ],
)
def test_a_part_that_cannot_be_is_named(text, environment, problem):
    with pytest.raises(ValueError) as error:
        read_part(text, environment)
    assert problem in str(error.value)


def test_parts_go_beside_each_other_but_not_twice_nor_beside_the_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("m2dit_jax.data.encode.parts._PATIENCE", 0.0)
    with writing_part(tmp_path, Part(1, 2)):
        with writing_part(tmp_path, Part(2, 2)):
            pass
        for other in (writing_part(tmp_path, Part(1, 2)), writing_all(tmp_path)):
            with pytest.raises(ValueError, match="another process is writing"), other:
                pass
        with pytest.raises(ValueError), writing_part(tmp_path, Part(3, 3)):  # other shards
            pass
    with (
        writing_all(tmp_path),
        pytest.raises(ValueError),
        writing_part(tmp_path, Part(1, 2)),
    ):
        pass
    assert set(begun_parts(tmp_path)) == {Part(1, 2), Part(2, 2)}
