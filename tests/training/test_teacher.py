import json
import shutil

import jax
import numpy as np
import pytest

from m2dit_jax import sample, train
from m2dit_jax.config.recipe import build_recipe
from m2dit_jax.parallel.mesh import make_mesh
from m2dit_jax.pipeline.load import load
from m2dit_jax.training.first_state import check_init_from
from m2dit_jax.training.frozen import check_same_frozen, frozen_shapes
from m2dit_jax.training.record import read_record
from m2dit_jax.training.teacher import find_teacher
from m2dit_jax.weights.run_folder import find_weights
from tests.training.test_first_state import _save_run
from tests.weights.tiny_models import BFLOAT16, tiny_network

TEACHER = "config.distill.teacher"
DISTILLED = {
    "distill.steps": 2,
    "distill.teacher_steps": 4,
    "distill.guidance_scale": 2.0,
    "sample.steps": 2,
    "sample.guidance_scale": 1.0,
}


def _student_of(config, teacher):
    config.update_from_flattened_dict(DISTILLED | {"distill.teacher": str(teacher)})
    return config


@pytest.fixture(scope="module")
def run(make_tiny_config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    _save_run(folder, make_tiny_config())
    return folder


def test_a_run_of_the_same_model_is_a_teacher(run, tiny_config):
    tiny_config.train.compute_dtype = "bfloat16"
    recipe = build_recipe(_student_of(tiny_config, run))
    teacher = find_teacher(recipe)
    assert teacher.place == run / "checkpoints/7" and "weights 'ema'" in teacher.said
    assert check_init_from(recipe) == f"starts from {teacher.said}", "the student, too"
    weights = teacher.load(frozen_shapes(recipe, make_mesh(tiny_config.mesh.to_dict())))
    expected = find_weights(run).load()

    def same(actual, expected):
        assert actual.dtype == jax.numpy.bfloat16
        np.testing.assert_array_equal(actual, expected.astype(jax.numpy.bfloat16))

    jax.tree.map(same, weights, expected)


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("model.layers", 2, "config.model.layers is 2, that of the run 1"),
        ("model.mask", "full", "config.model.mask is 'full', that of the teacher 'symmetric'"),
        ("model.scene_positions", True, "scene_positions is True, that of the teacher False"),
        ("diffusion.snr_shift", 3.0, "config.diffusion.snr_shift is 3.0, that of the teacher 24.0"),
        ("diffusion.prediction", "v", "prediction is 'v', that of the run 'x0'"),
    ],
)
def test_another_model_is_no_teacher(field, value, problem, run, tiny_config):
    tiny_config.update_from_flattened_dict({field: value})
    with pytest.raises(ValueError) as error:
        find_teacher(build_recipe(_student_of(tiny_config, run)))
    assert str(error.value).startswith(f"{TEACHER}: {run}") and problem in str(error.value)


def test_a_model_folder_is_a_teacher_if_its_noise_is_the_students(make_encoded_config, tmp_path):
    config = _student_of(make_encoded_config(), tmp_path)
    tiny_network(tmp_path / "transformer", "transformer", BFLOAT16)
    with pytest.raises(ValueError, match=r"scheduler/scheduler_config.json: no such file"):
        find_teacher(build_recipe(config))
    (tmp_path / "scheduler").mkdir()
    file = tmp_path / "scheduler/scheduler_config.json"
    file.write_text('{"snr_shift_scale": 3.0}')
    with pytest.raises(ValueError, match=r"snr_shift is 1.0, that of the teacher 3.0"):
        find_teacher(build_recipe(config))
    file.write_text('{"snr_shift_scale": 1.0}')
    assert find_teacher(build_recipe(config)).place == tmp_path


def test_what_is_no_model_is_no_teacher(tiny_config, tmp_path):
    config = _student_of(tiny_config, tmp_path / "nowhere")
    with pytest.raises(ValueError, match=f"{TEACHER}: .*nowhere: no such folder"):
        find_teacher(build_recipe(config))


def test_a_run_goes_on_with_its_teacher_only(run, tiny_config, tmp_path):
    teacher = find_teacher(build_recipe(_student_of(tiny_config, run)))
    lines = [{"event": "start", "teacher": teacher.recorded}]
    (tmp_path / "checkpoints/3").mkdir(parents=True)
    check_same_frozen(teacher, lines, tmp_path)
    check_same_frozen(teacher, [{"event": "start"}], tmp_path)
    lines[0]["teacher"] = {"place": "elsewhere", "fingerprint": "another"}
    with pytest.raises(ValueError, match=r"learnt from, which was elsewhere; needs the same"):
        check_same_frozen(teacher, lines, tmp_path)
    check_same_frozen(teacher, lines, tmp_path / "without a checkpoint")


@pytest.mark.e2e
@pytest.mark.slow  # two trainings from end to end, the only test of the whole way
def test_a_student_is_trained_resumed_and_sampled(tiny_flags, run, tmp_path, capsys):
    workdir, again = tmp_path / "student", tmp_path / "again"
    distilled = [
        *(f"--config.{name}={value}" for name, value in DISTILLED.items()),
        "--config.train.keep_checkpoints=9",
        f"--{TEACHER}={run}",
    ]
    assert train.main([*tiny_flags, *distilled, f"--workdir={workdir}"]) == 0
    output = capsys.readouterr().out
    assert f"learns from {run}/checkpoints/7" in output
    assert f"starts from {run}/checkpoints/7" in output
    assert read_record(workdir)[0]["teacher"]["place"] == f"{run}/checkpoints/7"

    shutil.copytree(workdir, again)
    for step in (10, 12):
        shutil.rmtree(again / "checkpoints" / str(step))
    assert train.main([*tiny_flags, *distilled, f"--workdir={again}"]) == 0
    assert "5 of 12 done" in capsys.readouterr().out
    for weights in ("ema", "params"):
        one, other = (find_weights(folder, weights).load() for folder in (workdir, again))
        jax.tree.map(np.testing.assert_array_equal, one, other)
    assert (again / "metrics.jsonl").read_text() == (workdir / "metrics.jsonl").read_text()

    shutil.rmtree(again / "checkpoints/12")
    other = [*tiny_flags, *distilled, f"--workdir={again}", f"--{TEACHER}={workdir}"]
    assert train.main(other) == 2
    assert "has other weights than the teacher that" in capsys.readouterr().err

    options = load(workdir).facts.defaults
    assert (options.steps, options.guidance_scale, options.sampler) == (2, 1.0, "ddim")
    board, out = tmp_path / "story.yaml", tmp_path / "out"
    board.write_text('scenes: [{prompt: "a red square moves up on navy"}]\n')
    flags = [f"--checkpoint={workdir}", f"--storyboard={board}", f"--output={out}"]
    assert sample.main(flags) == 0
    (scene,) = json.loads((out / "story.json").read_text())["scenes"]
    assert scene["evaluations"] == 2, "a step is one, without guidance"
