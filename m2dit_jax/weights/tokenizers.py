"""Tokenizers of model folders, and how much of a text they know.

transformers makes a tokenizer of whatever it finds; without its vocabulary every word is unknown to
it. So what it made is tried out.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

from pydantic import Field

from m2dit_jax.models.family import Family
from m2dit_jax.utils.options import OptionError, Options, option
from m2dit_jax.weights.networks import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# The smallest share of a text encoder's table that a vocabulary fills: T5's is 32100 of 32128.
_LEAST_FILLED = 0.5
_WORDS = "a man and a woman walk down the street, then they talk in the house"
LITTLE = 0.5  # share of a text: of one that loses so much little is kept
_SHOWN = 5  # pieces in a message


class _TokenizerJson(Options, frozen=True):
    """The field of `tokenizer_config.json` that makes tokens; transformers checks the others."""

    extra_ids: Annotated[int, Field(ge=0, le=10_000)] = option(100, "Tokens without a meaning.")


class LostText(NamedTuple):
    """What a tokenizer does not know of a text: characters of all that are not white, and which."""

    lost: int
    characters: int
    pieces: tuple[str, ...]

    @property
    def share(self) -> float:
        """Share of the text that is lost, 0 to 1."""
        return self.lost / self.characters if self.characters else float(bool(self.pieces))

    def __str__(self) -> str:
        if not self.characters:
            return "the tokenizer keeps nothing of it"
        shown = ", ".join(repr(piece[:40]) for piece in self.pieces[:_SHOWN])
        more = f" and {len(self.pieces) - _SHOWN} more" if len(self.pieces) > _SHOWN else ""
        kept = (
            ""
            if self.share < LITTLE
            else ", and keeps little of it"
            if self.share < 1
            else (", and keeps nothing of it")
        )
        return (
            f"the tokenizer does not know {self.lost} of {self.characters} characters "
            f"({self.share:.0%}){kept}: {shown}{more}"
        )


def load_tokenizer(folder: Path, family: Family, vocabulary: int) -> "PreTrainedTokenizerBase":
    """The family's tokenizer; `vocabulary` is the size of the text encoder's table.

    Raises ValueError, naming the folder, if its files are missing or damaged, or the vocabulary is
    not the text encoder's.
    """
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    import transformers

    kind = family.tokenizer.removesuffix("Tokenizer")
    made_by = getattr(transformers, family.tokenizer)
    _check_files(folder, kind, tuple(made_by.vocab_files_names.values()))
    try:
        tokenizer = made_by.from_pretrained(str(folder), local_files_only=True)
        problem = _problem(tokenizer, vocabulary)
    except Exception as error:  # transformers raises many kinds
        raise ValueError(f"{folder}: not a {kind} tokenizer ({error})") from error
    if problem:
        raise ValueError(f"{folder}: not the {kind} tokenizer of this model: {problem}")
    return tokenizer


def lost_text(tokenizer: "PreTrainedTokenizerBase", text: str) -> LostText:
    """The characters of a text that its tokens do not stand for, being unknown or special ones."""
    special = set(tokenizer.all_special_ids)
    visible = {place for place, character in enumerate(text) if not character.isspace()}
    if not tokenizer.is_fast:  # knows no places; those here have a token for every byte
        return LostText(0, len(visible), ())
    encoded = tokenizer(text, return_offsets_mapping=True, verbose=False)
    tokens = list(zip(encoded["input_ids"], encoded["offset_mapping"], strict=True))
    spans = [span for token, span in tokens if token in special and span[0] < span[1]]
    if text and all(token in special for token, _ in tokens):
        spans = [(0, len(text))]
    lost = visible & {place for start, end in spans for place in range(start, end)}
    return LostText(len(lost), len(visible), tuple(dict.fromkeys(text[a:b] for a, b in spans)))


def _check_files(folder: Path, kind: str, vocabularies: tuple[str, ...]) -> None:
    if not folder.is_dir():
        raise ValueError(f"{folder}: not a {kind} tokenizer (no such folder)")
    there = [folder / name for name in vocabularies if (folder / name).is_file()]
    if not any(path.stat().st_size for path in there):
        raise ValueError(
            f"{folder}: not a {kind} tokenizer (no vocabulary: needs "
            f"{' or '.join(vocabularies)}); download it again"
        )
    for path in sorted(folder.glob("*.json")):
        fields = read_json(path)
        if path.name == "tokenizer_config.json" and "extra_ids" in fields:
            try:
                _TokenizerJson(extra_ids=fields["extra_ids"])
            except OptionError as error:
                raise ValueError(f"{path}: {error}") from error


def _problem(tokenizer: "PreTrainedTokenizerBase", vocabulary: int) -> str:
    """Why these cannot be the tokens that a text encoder learnt, or ""."""
    if not _LEAST_FILLED * vocabulary <= len(tokenizer) <= vocabulary:
        return f"it has {len(tokenizer)} tokens, the text encoder {vocabulary} (vocab_size)"
    if tokenizer.pad_token_id is None or tokenizer("")["input_ids"] != [tokenizer.eos_token_id]:
        return "it does not end a text with its end token, or has no token for padding"
    lost = lost_text(tokenizer, _WORDS)
    return f"of {_WORDS!r} {lost}" if lost.share >= LITTLE else ""
