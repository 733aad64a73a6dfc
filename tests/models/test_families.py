from dataclasses import replace

import pytest

from m2dit_jax.models.cogvideox.family import COGVIDEOX
from m2dit_jax.models.families import DEFAULT, FAMILIES, NETWORK_NAMES, family_of, network_of
from m2dit_jax.models.family import SECOND


@pytest.mark.parametrize(
    "config, name",
    [
        ({"_class_name": "MultiPromptCogVideoXTransformer3DModel"}, "transformer"),
        ({"_class_name": "AutoencoderKLCogVideoX"}, "vae"),
        ({"architectures": ["T5EncoderModel"]}, "text_encoder"),
    ],
)
def test_a_network_is_known_by_its_class(config, name):
    assert network_of(config) == (COGVIDEOX, name)
    assert family_of(config) is COGVIDEOX


def test_a_config_without_a_class_is_of_the_default_family():
    assert family_of({"num_layers": 3}) is DEFAULT
    with pytest.raises(ValueError, match="needs a class that ends in one of .*, found None"):
        network_of({"num_layers": 3})


def test_an_unknown_class_is_named_with_those_there_are():
    with pytest.raises(ValueError, match="CogVideoXTransformer3D.*found FluxTransformer2DModel"):
        family_of({"_class_name": "FluxTransformer2DModel"})


def test_of_two_classes_that_end_alike_the_longer_one_is_meant(monkeypatch):
    umt5 = replace(COGVIDEOX.text_encoder, class_name="UMT5EncoderModel")
    other = replace(COGVIDEOX, name="other", text_encoder=umt5)
    monkeypatch.setattr("m2dit_jax.models.families.FAMILIES", (COGVIDEOX, other))
    assert network_of({"architectures": ["UMT5EncoderModel"]})[0].name == "other"
    assert network_of({"architectures": ["T5EncoderModel"]})[0] is COGVIDEOX


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_family_has_the_same_folders(family):
    assert tuple(family.networks) == tuple(name for name in NETWORK_NAMES if name != SECOND)
