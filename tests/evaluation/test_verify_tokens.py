"""Token ids of vocabularies that llama.cpp normalizes in its own way: told apart from a wrong tokenizer."""

import json
from pathlib import Path
from typing import Any

import pytest
import rebuilt_tokenizers
from damaged_gguf import with_metadata
from vocabulary_folders import write_gguf, write_json

from ggufkit.checkpoints.vocabulary import tokenizer_metadata
from ggufkit.evaluation.known_differences import common_text
from ggufkit.evaluation.results import Check, Grade
from ggufkit.evaluation.tokens import check_tokens
from ggufkit.gguf_file.reader import read_header

pytestmark = [pytest.mark.oracle, pytest.mark.engine]


def written(name: str, folder: Path, **normalizer: Any) -> Path:
    content = rebuilt_tokenizers.tokenizer_json(name)
    content["normalizer"] |= normalizer
    write_json(folder / "tokenizer.json", content)
    metadata = tokenizer_metadata(
        folder, {"vocab_size": len(rebuilt_tokenizers.fields_of(name)["tokens"])}, style="bert"
    )
    return write_gguf(folder / "vocabulary.gguf", metadata)


def write_unigram(folder: Path, scores: list[float]) -> Path:
    """Write a vocabulary of t, h and their pair."""
    named = [["<s>", 0.0], ["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0], ["▁", -1.0]]
    pieces = [[text, score] for text, score in zip("th", scores, strict=False)]
    model = {"type": "Unigram", "unk_id": 3, "vocab": [*named, *pieces, ["th", scores[-1]]], "byte_fallback": False}
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    stages = {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]}
    added = [{**rebuilt_tokenizers.added_token(text), "id": index} for index, (text, _) in enumerate(named[:4])]
    parts = {"added_tokens": added, "normalizer": None, "pre_tokenizer": stages, "post_processor": None}
    write_json(folder / "tokenizer.json", {"version": "1.0", **parts, "decoder": None, "model": model})
    return write_gguf(folder / "vocabulary.gguf", tokenizer_metadata(folder, {"vocab_size": 8}, style="bert"))


def check(model: Path, folder: Path) -> Check:
    return check_tokens(model, folder, [read_header(model)])


@pytest.mark.parametrize(("name", "known"), [("bert-bge", 6), ("nomic-bert-moe", 2)])
def test_what_llama_cpp_normalizes_otherwise_is_close(name: str, known: int, tmp_path: Path) -> None:
    found = check(written(name, tmp_path), tmp_path)
    assert found.grade is Grade.CLOSE, found.details
    assert found.figures["known_differences"] == found.figures["different_texts"] == known
    assert "cut alike" in found.details[-1]


@pytest.mark.parametrize("key", ["lowercase", "strip_accents"])
def test_a_wrong_normalizer_fails(key: str, tmp_path: Path) -> None:
    model = written("bert-bge", tmp_path, strip_accents=True)
    wrong = with_metadata(model, tmp_path / "wrong.gguf", **{f"tokenizer__ggml__normalizer__{key}": False})
    assert check(wrong, tmp_path).grade is Grade.FAILED


def test_other_scores_fail(tmp_path: Path) -> None:
    """In the file all pieces are as likely, so that the fewest win."""
    folder = tmp_path / "original"
    folder.mkdir()
    model = write_unigram(folder, [-1.0, -2.0, -30.0])
    found = check(model, folder)
    assert found.grade is Grade.CLOSE, found.details
    assert check(write_unigram(tmp_path, [-10.0, -10.0, -10.0]), folder).grade is Grade.FAILED


def test_what_is_left_of_a_text(tmp_path: Path) -> None:
    header = read_header(written("bert-bge", tmp_path))
    plain = "Naïve CAFÉ, 42 + 日本 пёс\t🐕 👨‍👩‍👧​!"
    assert common_text(plain, header) == plain
    assert common_text("a\x85b 한국 को İ 1️⃣", header) == "ab  क  1️"


def test_a_library_that_cannot_cut_a_text_is_no_fault_of_the_file(tmp_path: Path) -> None:
    model = write_unigram(tmp_path, [-1.0, -2.0, -30.0])
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    content["model"]["unk_id"] = None
    write_json(tmp_path / "tokenizer.json", content)
    found = check(model, tmp_path)
    assert found.grade is Grade.SKIPPED
    assert "cannot cut" in found.summary
