"""Prompts as worlds with a closed vocabulary read them: capitals and punctuation say nothing."""

import re

PUNCTUATION = r"""[.,;:!?"“”„«»()…–—]+"""  # for Python's and for Rust's regular expressions


def plain_words(text: str) -> str:
    """The text in small letters, without punctuation, with single spaces."""
    return " ".join(re.sub(PUNCTUATION, " ", text.lower()).split())
