import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2dit_jax.data.plain_text import plain_words
from m2dit_jax.data.shapes import ShapesSource, vocabulary
from m2dit_jax.data.tokenizer import build_word_tokenizer, tokenize_prompts

WORDS = ["a", "cat", "runs"]
TOKENIZER = build_word_tokenizer(WORDS)


def test_ids_follow_t5s_order():
    assert TOKENIZER.get_vocab() == {
        "<pad>": 0,
        "</s>": 1,
        "<unk>": 2,
        "a": 3,
        "cat": 4,
        "runs": 5,
    }
    assert (TOKENIZER.pad_token_id, TOKENIZER.eos_token_id, TOKENIZER.unk_token_id) == (0, 1, 2)


def test_prompts_end_with_eos_and_are_padded():
    tokens = tokenize_prompts(TOKENIZER, ["A cat  runs", "cat", ""], 5)
    assert tokens.dtype == np.int32
    assert tokens.tolist() == [[3, 4, 5, 1, 0], [4, 1, 0, 0, 0], [1, 0, 0, 0, 0]]


@pytest.mark.parametrize(
    "prompt", ["A cat runs.", "a cat, runs!", "  (a) “Cat”… runs?", "A CAT—RUNS"]
)
def test_capitals_and_punctuation_say_nothing(prompt):
    assert tokenize_prompts(TOKENIZER, [prompt], 5).tolist() == [[3, 4, 5, 1, 0]]
    assert plain_words(prompt) == "a cat runs"


def test_no_prompts_give_no_rows():
    assert tokenize_prompts(TOKENIZER, [], 4).shape == (0, 4)


@given(st.lists(st.sampled_from(WORDS), max_size=9))
def test_words_survive_the_round_trip(words):
    tokens = tokenize_prompts(TOKENIZER, [" ".join(words)], 10)
    assert TOKENIZER.decode(tokens[0], skip_special_tokens=True).split() == words


def test_a_prompt_may_fill_the_length_but_not_exceed_it():
    assert tokenize_prompts(TOKENIZER, ["a cat"], 3).tolist() == [[3, 4, 1]]
    with pytest.raises(ValueError, match="'a cat runs' takes 4 tokens .* limit is 3"):
        tokenize_prompts(TOKENIZER, ["a cat", "a cat runs"], 3)


def test_unknown_words_are_named_with_the_known_ones():
    message = r"'a Dog, runs far.' has unknown words: Dog, far \(known words: a, cat, runs\)"
    with pytest.raises(ValueError, match=message):
        tokenize_prompts(TOKENIZER, ["a Dog, runs far."], 8)


@pytest.mark.parametrize("special", ["</s>", "<pad>", "<unk>"])
def test_special_tokens_are_no_words(special):
    with pytest.raises(ValueError, match=f"unknown words: {special}"):
        tokenize_prompts(TOKENIZER, [f"a {special} cat"], 8)


def test_large_vocabularies_are_not_listed():
    tokenizer = build_word_tokenizer(f"word{i}" for i in range(100))
    with pytest.raises(ValueError, match="unknown words: cat$"):
        tokenize_prompts(tokenizer, ["word1 cat"], 8)


@pytest.mark.parametrize("word", ["a", "</s>", "Cat", "two words", "", " pad ", "cat."])
def test_unusable_words_are_refused(word):
    with pytest.raises(ValueError, match=f"word '{word}'"):
        build_word_tokenizer(["a", word])


def test_the_vocabulary_covers_all_captions():
    tokenizer = build_word_tokenizer(vocabulary())
    source = ShapesSource(0, num_scenes=6, frames=2, size=8, held_out=False, length=20)
    captions = [caption for story in source for caption in story["captions"]]
    tokens = tokenize_prompts(tokenizer, captions, 8)
    assert (tokens == tokenizer.eos_token_id).sum() == len(captions)


def test_building_a_tokenizer_prints_nothing():
    code = (
        "from m2dit_jax.data import tokenizer as t; "
        "t.tokenize_prompts(t.build_word_tokenizer(['a']), ['a'], 2)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""
