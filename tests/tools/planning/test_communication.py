from dataclasses import replace

from m2dit_jax.models.cogvideox.transformer import TransformerConfig
from m2dit_jax.models.layout import Layout
from m2dit_jax.tools.planning.communication import Parts, least_sampling_bytes, least_training_bytes

CONFIG = TransformerConfig(
    channels=4, patch_size=2, layers=3, heads=4, head_dim=16, text_dim=8, time_dim=16, remat="full"
)
LAYOUT = Layout(2, 4, 12)


def test_weights_are_gathered_twice_and_gradients_cut_once():
    least = least_training_bytes(CONFIG, LAYOUT, Parts(8, 1, 1), 8000, 1, 2)
    assert least == {"all-gather": 14000, "reduce-scatter": 7000, "all-reduce": 0, "all-to-all": 0}


def test_replicas_add_up_their_parts_of_the_gradients():
    least = least_training_bytes(CONFIG, LAYOUT, Parts(4, 1, 2), 8000, 1, 2)
    assert least["all-reduce"] == 2 * 2000 // 2 and least["reduce-scatter"] == 6000


def test_attention_swaps_tokens_for_heads():
    one = 3 * (2 * 32 * 64 * 2 // 4) * 3 // 4  # layers, local tensor of 2 stories, what is others'
    for remat, changes in (("none", 8), ("attention", 11), ("full", 12)):
        config = replace(CONFIG, remat=remat)
        least = least_training_bytes(config, LAYOUT, Parts(4, 4, 1), 8000, 2, 2)
        assert least["all-to-all"] == changes * one
    sampling = least_sampling_bytes(CONFIG, LAYOUT, Parts(4, 4, 1), 8000, 2, 2)
    assert sampling == {"all-gather": 6000, "all-to-all": 4 * one}


def test_forward_passes_besides_gather_weights_and_swap_tokens():
    training = least_training_bytes(CONFIG, LAYOUT, Parts(4, 4, 1), 8000, 2, 2)
    distilling = least_training_bytes(CONFIG, LAYOUT, Parts(4, 4, 1), 8000, 2, 2, evaluations=3)
    sampling = least_sampling_bytes(CONFIG, LAYOUT, Parts(4, 4, 1), 8000, 2, 2)
    for kind, size in distilling.items():
        assert size == training[kind] + 3 * sampling.get(kind, 0)
