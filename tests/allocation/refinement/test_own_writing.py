"""What a model writes by itself, beside the text that it is refined by."""

from pathlib import Path

import numpy as np
import pytest
import random_models

from ggufkit.allocation.refinement.learning_text import own_chunks, with_own_writing
from ggufkit.allocation.refinement.own_writing import own_writing
from ggufkit.allocation.refinement.refine import tokens_of_its_own
from ggufkit.errors import GgufkitError
from ggufkit.evaluation.likelihood.passes import Running
from ggufkit.evaluation.likelihood.texts import Chunks


def chunks_of(count: int, length: int = 512) -> Chunks:
    return Chunks(tuple((number,) * length for number in range(count)), length, 5000, ())


@pytest.mark.parametrize(("text", "own", "kept"), [(140, 70, 70), (100, 70, 70), (40, 40, 40), (1, 1, 1)])
def test_as_much_is_written_as_is_read_of_the_text_and_no_more_in_all(text: int, own: int, kept: int) -> None:
    chunks = chunks_of(text)
    assert own_chunks(chunks) == own
    found = with_own_writing(chunks, np.full((own, 512), 4999, np.int32))
    first = [chunk[0] for chunk in found.tokens]
    assert first[kept:] == [4999] * own
    assert len(set(first[:kept])) == kept  # from all over the text
    assert first[0] == 0
    assert first[kept - 1] >= text - 1 - text // kept


def test_the_estimate_counts_what_is_written_at_most() -> None:
    assert tokens_of_its_own(1_000_000, 512) == own_chunks(chunks_of(140)) * 512
    assert tokens_of_its_own(1_000_000_000, 512) == 0


@pytest.mark.engine
def test_a_process_of_its_own_writes(tmp_path: Path) -> None:
    model = random_models.write(tmp_path / "random-F16.gguf")
    told: list[int] = []
    found = own_writing(
        model, 3, chunks_of(3, 64), Running(threads=1), tmp_path / "work", lambda _, done, *__: told.append(done)
    )
    assert found.shape == (3, 64)
    assert told == [0, 3]
    assert own_writing(model, 0, chunks_of(3, 64), Running(), tmp_path, lambda *_: None).shape == (0, 64)


@pytest.mark.engine
def test_a_broken_model_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF and no more")
    with pytest.raises(GgufkitError):
        own_writing(tmp_path / "model.gguf", 1, chunks_of(1, 64), Running(), tmp_path / "work", lambda *_: None)
