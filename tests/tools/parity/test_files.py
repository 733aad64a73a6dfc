import re

import pytest

from m2dit_jax.tools.parity.files import COGVIDEOX, golden_files, not_exercised, run_checks
from m2dit_jax.tools.parity.models import ReferenceModels

FILES = {
    "manifest.json": "manifest",
    "pipe_5b/transformer_sharded/diffusion_pytorch_model.safetensors.index.json": "sharded weights",
    "pipe_3x/text_encoder_sharded/model.safetensors.index.json": "sharded weights",
    "tokenizer_golden.json": "tokenizer",
    "transformer/rope.npz": "rope",
    "schedulers.npz": "schedulers",
    "attention_mask.npz": "attention",
    "t5.npz": "text encoder",
    "transformer/fwd_1_5_n3.npz": "transformer",
    "transformer/cond_2b_n4.npz": "transformer",
    "transformer/inter_5b_n1.npz": "transformer",
    "vae/encode_2b_f17.npz": "vae encode",
    "vae/decode_5b_l7.npz": "vae decode",
    "pipelines/extend_5b_dyncfg.npz": "pipelines",
    "training/2b_normal.npz": "training",
}
PARTS = (
    "README.md",
    "pipe_5b/model_index.json",
    "pipe_5b/transformer/config.json",
    "transformer_1_5/config.json",
    "pipelines/extend_5b_dyncfg.json",
    "training/2b_normal_grads.safetensors",
    "training/2b_normal_params_after_adamw.safetensors",
)
UNKNOWN = (
    "more.npz",
    "notes.txt",
    "old/schedulers.npz",
    "vae/middle_5b.npz",
    "transformer/other_5b.npz",
    "pipelines/notes.md",
    "training/2b_normal_state.safetensors",
)


def make(root, names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        # By it the family of the set is known.
        is_config = name == "pipe_5b/transformer/config.json"
        (root / name).write_text('{"_class_name": "CogVideoXTransformer3DModel"}' * is_config)


def test_files_are_known_by_their_names(tmp_path):
    make(tmp_path, [*FILES, *PARTS])
    found, unknown = golden_files(tmp_path)
    assert found == FILES
    assert set(found.values()) == set(COGVIDEOX.checks)
    assert not unknown


@pytest.mark.parametrize("name", UNKNOWN)
def test_any_other_file_is_a_failure(tmp_path, name):
    make(tmp_path, [*FILES, *PARTS, name])
    _, [case] = golden_files(tmp_path)
    assert (case.case, case.passed) == (name, False)
    assert case.note == "a file of no known kind, not exercised"


@pytest.mark.parametrize("name", [*PARTS[-3:]])
def test_a_part_that_no_check_reads_is_a_failure(tmp_path, name):
    make(tmp_path, [name])
    found, [case] = golden_files(tmp_path)
    assert not found
    assert (case.case, case.note) == (name, "not exercised: no npz file of its name")


def test_each_name_belongs_to_one_kind():
    for name in FILES:
        assert (
            sum(bool(re.fullmatch(pattern, name)) for pattern, _ in COGVIDEOX.checks.values()) == 1
        )


def test_a_check_that_cannot_run_fails_and_the_next_one_runs(tmp_path):
    make(tmp_path, ["manifest.json", "t5.npz"])
    names = {"manifest.json": "manifest", "t5.npz": "text encoder"}
    cases = list(run_checks(tmp_path, names, ReferenceModels(tmp_path)))
    assert [(case.case, case.passed) for case in cases] == [
        ("manifest.json", False),
        ("t5.npz", False),
    ]
    assert cases[0].note.startswith("JSONDecodeError: ")


def test_kinds_that_are_not_there_are_failures(tmp_path):
    make(tmp_path, [*FILES, *PARTS])
    assert not_exercised(tmp_path, golden_files(tmp_path)[0]) == []
    (tmp_path / "training/2b_normal_params_after_adamw.safetensors").unlink()
    (tmp_path / "t5.npz").unlink()
    cases = not_exercised(tmp_path, golden_files(tmp_path)[0])
    assert [(case.case, case.passed) for case in cases] == [
        ("text encoder", False),
        ("optimizer", False),
    ]
    assert cases[0].note == r"not exercised: no file is like t5\.npz"
