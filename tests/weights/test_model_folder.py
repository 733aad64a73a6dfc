import json

import pytest

from m2dit_jax.weights.model_folder import (
    absent_networks,
    find_components,
    form_of,
    plain_files,
    unknown_networks,
    unused,
    unused_line,
)
from tests.weights.tiny_models import CONFIGS


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    return folder


def found(folder):
    return [component.name for component in find_components(folder)]


def test_the_networks_of_a_model_folder(tmp_path):
    touch(tmp_path, "vae/config.json", "transformer/config.json", "scheduler/x.json")
    assert found(tmp_path) == ["transformer", "vae"]


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_folder_of_one_network_is_known_by_its_config(tmp_path, kind):
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS[kind]))
    (component,) = find_components(tmp_path)
    assert component.name == ""
    assert component.directory == tmp_path
    assert component.network.stem == ("model" if kind == "text_encoder" else component.network.stem)


def test_a_config_of_another_network(tmp_path):
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DConditionModel"}')
    with pytest.raises(ValueError, match="ends in one of CogVideoX.*found UNet2DConditionModel"):
        find_components(tmp_path)


def test_a_folder_without_networks(tmp_path):
    with pytest.raises(ValueError, match="needs at least one of transformer/, vae/, text_encoder/"):
        find_components(tmp_path)
    with pytest.raises(ValueError, match="no such folder"):
        find_components(tmp_path / "nothing")


def test_a_network_that_the_index_names_may_be_absent(tmp_path):
    touch(tmp_path, "transformer/config.json")
    (tmp_path / "model_index.json").write_text(
        '{"_class_name": "X", "transformer": ["a", "b"], "vae": ["a", "b"], '
        '"text_encoder": [null, null]}'
    )
    assert found(tmp_path) == ["transformer"]
    assert absent_networks(tmp_path) == ["vae"]


def test_an_unknown_network_is_refused_only_if_the_index_names_it(tmp_path):
    touch(tmp_path, "transformer/config.json", "clip/model.safetensors", "notes/text.txt")
    assert found(tmp_path) == ["transformer"]
    assert unknown_networks(tmp_path) == ["clip"]
    (tmp_path / "model_index.json").write_text('{"clip": ["transformers", "CLIPModel"]}')
    with pytest.raises(
        ValueError, match="names the network clip, which this project does not know"
    ):
        find_components(tmp_path)


def test_an_index_that_is_not_json(tmp_path):
    touch(tmp_path, "transformer/config.json", "clip/model.safetensors")
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(ValueError, match=r"model_index\.json: not readable"):
        find_components(tmp_path)


def test_forms(tmp_path):
    touch(tmp_path, "transformer/model.safetensors", "vae/params/_METADATA")
    transformer, vae = find_components(tmp_path)
    assert form_of([transformer]) == "diffusers"
    assert form_of([vae]) == "orbax"
    with pytest.raises(ValueError, match="vae is in Orbax form and transformer is not"):
        form_of([transformer, vae])
    touch(tmp_path, "vae/model.safetensors")
    with pytest.raises(ValueError, match="vae: holds params/ and PyTorch weights"):
        form_of([vae])


def test_all_but_weights_and_hidden_files_are_plain(tmp_path):
    touch(
        tmp_path,
        *("config.json", "sub/a.txt", ".git/x", ".hidden", "vae/x.json", "params/y"),
        *("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"),
    )
    assert [str(path) for path in plain_files(tmp_path, without={"vae"})] == [
        "config.json",
        "sub/a.txt",
    ]


def test_what_is_not_used_is_named_and_what_explains_is_not(tmp_path):
    touch(
        tmp_path,
        *("model_index.json", "m2dit.json", "README.md", "LICENSE", "LICENSE_T5", "teaser.png"),
        *(".gitattributes", ".cache/x/y.lock", "scheduler/scheduler_config.json", "notes.txt"),
        *("tokenizer/spiece.model", "tokenizer/added_tokens.json", "transformer/config.json"),
        *("transformer/model.safetensors", "vae/config.json", "vae/params/manifest.ocdbt"),
    )
    assert unused(tmp_path) == [] and unused_line(tmp_path) == ""
    touch(
        tmp_path,
        *("pytorch_lora_weights.safetensors", "safety_checker/config.json"),
        *("transformer/model.fp16.safetensors", "transformer/model.bin", "vae/old/x.json"),
        *("transformer/README.md", "adapter_config.json"),
    )
    assert unused(tmp_path) == [
        "adapter_config.json",
        "pytorch_lora_weights.safetensors",
        "safety_checker/",
        "transformer/model.bin",
        "transformer/model.fp16.safetensors",
        "vae/old/",
    ]
    assert unused_line(tmp_path) == (
        f"{tmp_path}: not used: adapter_config.json, pytorch_lora_weights.safetensors, "
        "safety_checker/, transformer/model.bin, transformer/model.fp16.safetensors and 1 more "
        "(adapters such as LoRA are applied where --lora asks for them)"
    )


def test_shards_of_the_index_are_used_and_others_are_not(tmp_path):
    names = [f"transformer/model-{n}.safetensors" for n in (1, 2, 3)]
    touch(tmp_path, *names)
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "transformer/model.safetensors.index.json").write_text(json.dumps(index))
    assert unused(tmp_path) == ["transformer/model-3.safetensors"]


def test_an_index_of_the_model_that_is_nested_without_end(tmp_path):
    touch(tmp_path, "transformer/config.json")
    (tmp_path / "model_index.json").write_text("[" * 100_000)
    with pytest.raises(
        ValueError, match=r"model_index\.json: not readable as JSON \(nested too deeply"
    ):
        absent_networks(tmp_path)
