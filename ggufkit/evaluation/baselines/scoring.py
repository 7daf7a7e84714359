"""Scores of a baseline's logits against the base's, by the code that scores GGUF files; kept chunk by chunk."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ggufkit.evaluation.likelihood import passes
from ggufkit.evaluation.likelihood.scores import COLUMNS, score_against
from ggufkit.evaluation.likelihood.texts import Chunks


@dataclass(frozen=True, slots=True)
class Scoring:
    """The scores of one baseline in `path`; the base's log-probabilities lie in `folder`."""

    chunks: Chunks
    folder: Path
    path: Path
    threads: int

    @property
    def first(self) -> int:
        """The first position of a chunk whose logits are scored."""
        return self.chunks.length // 2

    @property
    def done(self) -> int:
        """How many chunks are scored; what is there of another one is cut off."""
        size = 4 * self.chunks.scored * len(COLUMNS)
        if not self.path.exists():
            return 0
        done = min(self.path.stat().st_size // size, len(self.chunks.tokens))
        os.truncate(self.path, done * size)
        return done

    def take(self, logits: Path, number: int) -> None:
        """Score the logits of a chunk, float32 [n, n_vocab], and remove their file."""
        size = self.chunks.vocabulary_size
        found = np.fromfile(logits, "<f4").reshape(-1, size)[: self.chunks.scored]
        base = passes.base_file(self.folder, self.chunks)
        next_tokens = np.asarray(self.chunks.tokens[number][self.first + 1 :], np.int32)
        with base.path.open("rb") as file, self.path.open("ab") as scores:
            there = base.rows(file, number)
            scores.write(score_against(found, next_tokens, there, threads=self.threads).astype("<f4").tobytes())
        logits.unlink()

    def scores(self) -> NDArray[np.float32]:
        """Return them all, float32 [chunks, scored, 4]."""
        return np.fromfile(self.path, "<f4").reshape(len(self.chunks.tokens), self.chunks.scored, len(COLUMNS))
