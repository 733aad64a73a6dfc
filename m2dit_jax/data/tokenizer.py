"""A word tokenizer for closed vocabularies, and the padding of prompts for any tokenizer."""

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int32
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase, Replace
from tokenizers.normalizers import Sequence as Steps
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing

from m2dit_jax.data.plain_text import PUNCTUATION, plain_words

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

# T5's special tokens, at T5's ids.
PAD, EOS, UNKNOWN = "<pad>", "</s>", "<unk>"

# Vocabularies below this size are listed in error messages.
LISTED_WORDS = 100

# Token ids of the byte tokenizer: special ones, bytes, and ones that ByT5 keeps in reserve.
BYTE_VOCABULARY = 384


def build_word_tokenizer(words: Iterable[str]) -> "PreTrainedTokenizerFast":
    """Builds a tokenizer that reads prompts as `plain_words` has them, and appends EOS.

    Pad, EOS and unknown have ids 0, 1 and 2; the words follow from 3 on, in the order given.

    Raises ValueError if a word occurs twice, is no plain word (capitals, white space, punctuation,
    nothing at all), or is a special token.
    """
    ids = {PAD: 0, EOS: 1, UNKNOWN: 2}
    for word in words:
        if word in ids:
            raise ValueError(f"word {word!r} occurs twice or is a special token")
        if word.split() != [word] or word != plain_words(word):
            raise ValueError(f"word {word!r} is not a single lower-case word")
        ids[word] = len(ids)

    tokenizer = Tokenizer(WordLevel(ids, unk_token=UNKNOWN))
    tokenizer.normalizer = Steps([Lowercase(), Replace(Regex(PUNCTUATION), " ")])
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.post_processor = TemplateProcessing(
        single=f"$A {EOS}", special_tokens=[(EOS, ids[EOS])]
    )

    # Imported here because it takes seconds; it would also announce that there is no PyTorch.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, unk_token=UNKNOWN
    )


def build_byte_tokenizer() -> "PreTrainedTokenizerBase":
    """ByT5's: a token per byte of UTF-8, so that it needs no vocabulary and knows every text."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    from transformers import ByT5Tokenizer

    return ByT5Tokenizer()


def tokenize_prompts(
    tokenizer: "PreTrainedTokenizerBase", prompts: Sequence[str], length: int
) -> Int32[np.ndarray, "N {length}"]:
    """Tokenizes prompts and pads each to `length` tokens, EOS included.

    Works with every fast tokenizer that appends EOS, such as T5's. The empty prompt, which stands
    for "unconditional", is EOS alone.

    Raises ValueError if a prompt has unknown words or special tokens in it, or is too long.
    """
    rows = np.full((len(prompts), length), tokenizer.pad_token_id, np.int32)
    for row, prompt in zip(rows, prompts, strict=True):
        encoded = tokenizer(prompt, return_offsets_mapping=True)
        ids = encoded["input_ids"]
        spans = encoded["offset_mapping"]
        unknown = [
            prompt[start:end]
            for token, (start, end) in zip(ids[:-1], spans[:-1], strict=True)
            if token in tokenizer.all_special_ids
        ]
        if unknown:
            raise ValueError(
                f"prompt {prompt!r} has unknown words: {', '.join(unknown)}"
                + _known_words(tokenizer)
            )
        if len(ids) > length:
            raise ValueError(
                f"prompt {prompt!r} takes {len(ids)} tokens with its EOS, the limit is {length}"
            )
        row[: len(ids)] = ids
    return rows


def pad_or_truncate(
    tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int], length: int
) -> Int32[np.ndarray, " {length}"]:
    """Exactly `length` of a text's token ids, EOS included: a text too long keeps its EOS."""
    row = np.full(length, tokenizer.pad_token_id, np.int32)
    row[: len(ids)] = ids[:length]
    if len(ids) > length:
        row[-1] = ids[-1]
    return row


def _known_words(tokenizer: "PreTrainedTokenizerBase") -> str:
    """The end of an error message: all known words, if they are few."""
    words = sorted(set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens))
    return f" (known words: {', '.join(words)})" if len(words) < LISTED_WORDS else ""
