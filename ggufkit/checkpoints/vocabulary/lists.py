"""A vocabulary as llama.cpp keeps it: lists with one entry per token id."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ggufkit.checkpoints.vocabulary.files import MetadataValue
from ggufkit.checkpoints.vocabulary.token_types import TokenType, padding_token
from ggufkit.errors import CheckpointError

UNUSED_SCORE = -10000.0
ADDED_SCORE = -1000.0


@dataclass(slots=True)
class VocabularyLists:
    """One entry per id: texts, types, and scores where the tokenizer has them; merges in the order of their rank.

    `model` is llama.cpp's name of the algorithm; `settings` are further `tokenizer.*` keys that come with it, `roles`
    the ids of tokens whose roles the vocabulary itself tells.
    `remarks` say where llama.cpp will not do quite what the original does.
    """

    model: str
    tokens: list[str]
    types: list[int]
    scores: list[float] | None = None
    merges: list[str] | None = None
    settings: dict[str, MetadataValue] = field(default_factory=dict)
    roles: dict[str, int] = field(default_factory=dict)
    pretokenizer: str | None = None  # where the vocabulary's own file tells
    remarks: list[str] = field(default_factory=list)

    @classmethod
    def unused(cls, model: str, size: int, *, scored: bool = False) -> "VocabularyLists":
        """Make `size` rows that no text uses."""
        tokens = [padding_token(token_id) for token_id in range(size)]
        return cls(model, tokens, [int(TokenType.UNUSED)] * size, [UNUSED_SCORE] * size if scored else None)

    def put(self, token_id: int, text: str, token_type: TokenType, score: float = ADDED_SCORE) -> None:
        """Write one row."""
        self.tokens[token_id], self.types[token_id] = text, int(token_type)
        if self.scores is not None:
            self.scores[token_id] = score

    def metadata(self) -> dict[str, MetadataValue]:
        """Spell the lists as metadata."""
        metadata: dict[str, MetadataValue] = {
            "tokenizer.ggml.model": self.model,
            "tokenizer.ggml.tokens": self.tokens,
            "tokenizer.ggml.token_type": self.types,
        }
        if self.scores is not None:
            metadata["tokenizer.ggml.scores"] = self.scores
        if self.merges is not None:
            metadata["tokenizer.ggml.merges"] = self.merges
        return metadata | self.settings


def check_room(path: Path, ids: Mapping[str, int], room: int | None) -> int:
    """Return how many rows a vocabulary of these ids gets: `room` if it is known, else as many as it needs.

    Raises:
        CheckpointError: it has more tokens than there is room for.
    """
    count = 1 + max(ids.values(), default=-1)
    if room is not None and count > room:
        beyond = sorted((token_id, text) for text, token_id in ids.items() if token_id >= room)
        shown = ", ".join(f"{text!r}: {token_id}" for token_id, text in beyond[:3])
        raise CheckpointError(
            f"{path}: {count} tokens, but the model has room for {room} (its embedding rows, or vocab_size); "
            f"{len(beyond)} have no row ({shown}{', …' if len(beyond) > 3 else ''})",
            hint="resize the embedding to the tokenizer (resize_token_embeddings), remove those tokens, "
            "or take the tokenizer of the base model: --tokenizer-from DIR",
        )
    return count if room is None else room
