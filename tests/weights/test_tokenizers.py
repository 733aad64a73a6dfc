import json
import shutil

import pytest

from m2dit_jax.models.families import DEFAULT
from m2dit_jax.weights.tokenizers import load_tokenizer, lost_text

VOCABULARY = 608  # of the golden text encoder


@pytest.fixture
def folder(golden, tmp_path):
    return shutil.copytree(golden / "pipe_2b/tokenizer", tmp_path / "tokenizer")


@pytest.fixture(scope="module")
def tokenizer(golden):
    return load_tokenizer(golden / "pipe_2b/tokenizer", DEFAULT, VOCABULARY)


def refused(folder, vocabulary=VOCABULARY):
    with pytest.raises(ValueError) as error:
        load_tokenizer(folder, DEFAULT, vocabulary)
    return str(error.value)


def test_a_folder_without_its_vocabulary_is_refused(folder):
    (folder / "spiece.model").unlink()
    assert refused(folder) == (
        f"{folder}: not a T5 tokenizer (no vocabulary: needs spiece.model or tokenizer.json); "
        "download it again"
    )
    (folder / "spiece.model").touch()
    assert "no vocabulary" in refused(folder)
    shutil.rmtree(folder)
    assert "no such folder" in refused(folder)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
def test_half_a_vocabulary_is_refused(folder, share):
    whole = (folder / "spiece.model").read_bytes()
    (folder / "spiece.model").write_bytes(whole[: int(share * len(whole))])
    assert f"{folder}: not a" in refused(folder)


@pytest.mark.parametrize("vocabulary", [519, 1042, 32128])
def test_the_vocabulary_of_another_encoder_is_refused(folder, vocabulary):
    assert f"it has 520 tokens, the text encoder {vocabulary}" in refused(folder, vocabulary)


def test_a_tokenizer_json_serves_as_well(folder, tokenizer):
    (folder / "spiece.model").unlink()
    tokenizer.save_pretrained(folder)
    again = load_tokenizer(folder, DEFAULT, VOCABULARY)
    assert again("a red fox")["input_ids"] == tokenizer("a red fox")["input_ids"]


def test_one_that_knows_no_words_or_ends_no_text_is_refused(folder, tokenizer):
    (folder / "spiece.model").unlink()
    tokenizer.save_pretrained(folder)
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    unended = content | {"post_processor": None}
    pieces = [
        [f"中{i}" if i > 2 and len(p) < 9 else p, s]
        for i, (p, s) in enumerate(content["model"]["vocab"])
    ]
    wordless = content | {"model": content["model"] | {"vocab": pieces}}
    for changed, message in ((unended, "not the T5|not a T5"), (wordless, "does not know")):
        (folder / "tokenizer.json").write_text(json.dumps(changed), encoding="utf-8")
        try:
            load_tokenizer(folder, DEFAULT, VOCABULARY)
        except ValueError as error:
            assert any(part in str(error) for part in message.split("|"))
        else:  # transformers puts the end there itself
            assert changed is unended


@pytest.mark.parametrize("name", ["tokenizer_config.json", "added_tokens.json"])
@pytest.mark.parametrize("content", ["{", "[1]", "[" * 100_000, '{"a": ' * 100_000])
def test_damaged_json_is_named(folder, name, content):
    (folder / name).write_text(content)
    assert f"{folder / name}: " in refused(folder)


@pytest.mark.parametrize("value", [None, "100", -1, 10**30, [1], 1.5])
def test_impossible_counts_of_tokens_are_named(folder, value):
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | {"extra_ids": value}
    path.write_text(json.dumps(config), encoding="utf-8")
    assert f"{path}: extra_ids: found " in refused(folder)


@pytest.mark.parametrize(
    ("text", "lost", "characters", "pieces"),
    [
        ("a red cat runs", 0, 11, ()),
        ("", 0, 0, ()),
        ("你好世界 猫", 5, 5, ("你好世界", "猫")),
        ("Привет мир", 9, 9, ("Привет", "мир")),
        ("🙂🙂", 2, 2, ("🙂🙂",)),
        ("a 猫 cat", 1, 5, ("猫",)),
        ("</s>", 4, 4, ("</s>",)),
        ("  ", 0, 0, ("  ",)),
    ],
)
def test_what_is_lost_of_a_text(tokenizer, text, lost, characters, pieces):
    assert lost_text(tokenizer, text) == (lost, characters, pieces)


def test_how_it_is_told(tokenizer):
    assert str(lost_text(tokenizer, "a 猫 cat")) == (
        "the tokenizer does not know 1 of 5 characters (20%): '猫'"
    )
    assert "4 of 5 characters (80%), and keeps little of it" in str(
        lost_text(tokenizer, "a 猫猫猫猫")
    )
    assert "(100%), and keeps nothing of it: '你好'" in str(lost_text(tokenizer, "你好"))
    assert str(lost_text(tokenizer, " ")) == "the tokenizer keeps nothing of it"
    assert lost_text(tokenizer, " ").share == 1
