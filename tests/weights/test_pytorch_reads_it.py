"""What comes back from Orbax loads in diffusers and transformers, nothing missing or left over."""

import numpy as np
import pytest

from m2dit_jax.weights.conversion import execute, make_plan
from m2dit_jax.weights.safetensors_files import open_safetensors
from tests.weights.tiny_models import CONFIGS, tiny_model

pytest.importorskip("torch", reason="optional extra: torch")
diffusers = pytest.importorskip("diffusers", reason="optional extra: diffusers")
transformers = pytest.importorskip("transformers", reason="optional extra: transformers")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("folders")
    source = tiny_model(folder / "source", kinds=CONFIGS)
    for start, end in [("source", "orbax"), ("orbax", "back")]:
        plan = make_plan(folder / start, folder / end, None, None)
        execute(plan, lambda nbytes: None, max_shard_bytes=20_000)
    return source, folder / "back"


@pytest.mark.parametrize("kind", CONFIGS)
def test_pytorch_reads_it(folders, kind):
    source, back = folders
    library = transformers if kind == "text_encoder" else diffusers
    (name,) = CONFIGS[kind].get("architectures", [CONFIGS[kind].get("_class_name")])
    assert len(list((back / kind).glob("*.safetensors"))) > 1 or kind == "text_encoder"
    model, info = getattr(library, name).from_pretrained(back / kind, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    state = model.state_dict()
    for name, tensor in open_safetensors(source / kind).items():
        np.testing.assert_array_equal(state[name].numpy(), tensor.read())
