"""From a prompt to the token ids that a text encoder reads, and what is lost on the way."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int32

from m2dit_jax.data.tokenizer import pad_or_truncate, tokenize_prompts
from m2dit_jax.weights.tokenizers import lost_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class PromptTokenizer:
    """A tokenizer with the number of tokens that its model reads, EOS included.

    `closed` vocabularies refuse unknown words and prompts that are too long; others truncate, and
    `check` says so. `unit` names what the tokens are, for the message.
    """

    tokenizer: "PreTrainedTokenizerBase"
    length: int
    closed: bool = False
    unit: str = "tokens"

    def ids(self, prompt: str) -> Int32[np.ndarray, " T"]:
        """Padded token ids. Raises ValueError if the vocabulary is closed and does not fit."""
        if self.closed:
            return tokenize_prompts(self.tokenizer, [prompt], self.length)[0]
        return pad_or_truncate(self.tokenizer, self._all_ids(prompt), self.length)

    def check(self, prompt: str) -> str:
        """A note of what is lost of the prompt: unknown characters, and what is truncated.

        Empty if nothing is. Raises ValueError as `ids` does.
        """
        if self.closed:
            self.ids(prompt)
            return ""
        lost = lost_text(self.tokenizer, prompt)
        notes = [f"of the prompt {lost}"] if lost.share else []
        found, most = len(self._all_ids(prompt)), self.length
        if found > most and self.unit == "bytes":
            notes.append(f"the prompt has {found - 1} bytes, the model reads {most - 1}")
        elif found > most:
            notes.append(
                f"the prompt has {found} tokens, the model reads the first {most - 1} and the end"
            )
        return "; ".join(notes)

    def _all_ids(self, prompt: str) -> list[int]:
        return self.tokenizer(prompt, verbose=False)["input_ids"]
