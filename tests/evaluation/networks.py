"""Folders of tiny CLIP and DINO networks with random weights, as transformers writes them."""

import json
from importlib import import_module
from pathlib import Path

_SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def save_dino(folder: Path, kind: str) -> Path:
    """DINO ("vit") or DINOv2 ("dinov2"). Returns the folder."""
    import transformers

    import_module("torch").manual_seed(0)
    sizes = {**_SMALL, "image_size": 28, "patch_size": 14}
    if kind == "vit":
        config = transformers.ViTConfig(**sizes, intermediate_size=32)
        model = transformers.ViTModel(config, add_pooling_layer=False)
    else:
        model = transformers.Dinov2Model(transformers.Dinov2Config(**sizes))
    model.save_pretrained(folder)
    return folder


def save_clip(folder: Path) -> Path:
    """CLIP with a tokenizer of single letters. Returns the folder."""
    import transformers

    import_module("torch").manual_seed(0)
    small = {**_SMALL, "intermediate_size": 32}
    config = transformers.CLIPConfig(
        text_config={**small, "vocab_size": 600, "max_position_embeddings": 12},
        vision_config={**small, "image_size": 28, "patch_size": 14},
        projection_dim=8,
    )
    transformers.CLIPModel(config).save_pretrained(folder)
    letters = [chr(code) for code in range(97, 123)]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    vocabulary = {token: i for i, token in enumerate(["<|startoftext|>", "<|endoftext|>", *tokens])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    transformers.CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt")
    ).save_pretrained(folder)
    return folder
