"""What a text shares with the texts that models were calibrated with: found where they are, said where they are not."""

import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ggufkit.errors import InputError
from ggufkit.evaluation.calibration import CalibrationCheck, check_calibration, find_calibration
from ggufkit.evaluation.likelihood.texts import Chunks, cut_into_chunks


def words(count: int, seed: int) -> str:
    chance = random.Random(seed)
    return " ".join(f"w{chance.randrange(5000)}" for _ in range(count))


def tokenize(texts: Sequence[Path]) -> list[NDArray[np.int32]]:
    """Cut at spaces: a token for each word."""
    return [np.array([int(word.strip("w") or 0) for word in text.read_text().split()], np.int32) for text in texts]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "held-out.txt"
    path.write_text(words(400, 1))
    return path


@pytest.fixture
def chunks(text: Path) -> Chunks:
    return cut_into_chunks([text], tokenize([text]), 5000, length=100, chunks=2)


def check(chunks: Chunks, calibration: Sequence[Path], folder: Path) -> CalibrationCheck:
    return check_calibration(chunks, calibration, {}, folder, tokenize)


def test_only_what_is_read_counts(chunks: Chunks, text: Path, tmp_path: Path):
    """The last words of the text are not read: who was calibrated with them has seen nothing of what is."""
    read, rest = text.read_text().split()[:200], text.read_text().split()[200:]
    (tmp_path / "rest.txt").write_text(" ".join(rest))
    (tmp_path / "half.txt").write_text(words(50, 2) + " " + " ".join(read[:100]))
    assert check(chunks, [tmp_path / "rest.txt"], tmp_path).overlaps == ()
    found = check(chunks, [tmp_path / "half.txt"], tmp_path)
    assert found.overlaps[0].share == pytest.approx((100 - 31) / (200 - 31))
    assert len(found.warnings) == 1
    assert "half.txt" in found.warnings[0]


def test_chats_are_compared_by_what_was_said(chunks: Chunks, text: Path, tmp_path: Path):
    said = " ".join(text.read_text().split()[:150])
    chats = tmp_path / "chats.jsonl"
    chats.write_text(
        json.dumps({"messages": [{"role": "user", "content": "1"}, {"role": "assistant", "content": said}]})
    )
    assert check(chunks, [chats], tmp_path).overlaps[0].share > 0.6


def test_texts_are_found_by_what_models_tell(tmp_path: Path):
    for name in ("here.txt", "named.txt"):
        (tmp_path / name).write_text("x")
    told = {
        tmp_path / "a.gguf": str(tmp_path / "here.txt"),
        tmp_path / "b.gguf": "/elsewhere/here.txt",  # beside the model
        tmp_path / "c.gguf": "/elsewhere/named.txt",  # given by hand
        tmp_path / "d.gguf": "/elsewhere/gone.txt",
        tmp_path / "e.gguf": None,
    }
    found, missing = find_calibration([tmp_path / "named.txt"], told)
    assert found == [tmp_path / "named.txt", tmp_path / "here.txt"]
    assert missing == {"d.gguf": "/elsewhere/gone.txt"}
    assert "--calibration" in CalibrationCheck(not_here=missing).remarks[0]


def test_a_calibration_text_that_is_not_there_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="no such calibration text"):
        find_calibration([tmp_path / "none.txt"], {})
