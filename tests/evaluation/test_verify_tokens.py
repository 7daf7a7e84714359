"""Token ids of vocabularies that llama.cpp normalizes in its own way: told apart from a wrong tokenizer."""

import json
from pathlib import Path
from typing import Any

import pytest
import rebuilt_tokenizers
import tiny_tokenizers
from damaged_gguf import with_metadata
from tokenizers import pre_tokenizers
from vocabulary_folders import write_byte_level, write_gguf, write_json

from ggufkit.checkpoints.vocabulary import tokenizer_metadata
from ggufkit.checkpoints.vocabulary.pretokenizers import TABLE
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


def write_unigram(folder: Path, scores: list[float], *, in_bytes: bool = False) -> Path:
    """Write a vocabulary of t, h and their pair; and of bytes for all else."""
    named = [["<s>", 0.0], ["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0], ["▁", -1.0]]
    pieces = [[text, score] for text, score in zip("th", scores, strict=False)]
    in_order = [[f"<0x{byte:02X}>", -20.0] for byte in range(256)] if in_bytes else []
    vocab = [*named, *pieces, ["th", scores[-1]], *in_order]
    model = {"type": "Unigram", "unk_id": 3, "vocab": vocab, "byte_fallback": in_bytes}
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    stages = {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]}
    added = [{**rebuilt_tokenizers.added_token(text), "id": index} for index, (text, _) in enumerate(named[:4])]
    parts = {"added_tokens": added, "normalizer": None, "pre_tokenizer": stages, "post_processor": None}
    write_json(folder / "tokenizer.json", {"version": "1.0", **parts, "decoder": None, "model": model})
    return write_gguf(folder / "vocabulary.gguf", tokenizer_metadata(folder, {"vocab_size": len(vocab)}, style="bert"))


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


def test_bytes_of_a_unigram_vocabulary_are_unknown_to_llama_cpp(tmp_path: Path) -> None:
    folder = tmp_path / "original"
    folder.mkdir()
    model = write_unigram(folder, [-1.0, -2.0, -30.0], in_bytes=True)
    found = check(model, folder)
    assert found.grade is Grade.CLOSE, found.details
    assert found.figures["known_differences"] == found.figures["different_texts"] > 40
    assert "has no bytes" in found.details[-1]
    assert check(write_unigram(tmp_path, [-10.0, -10.0, -10.0], in_bytes=True), folder).grade is Grade.FAILED


def test_user_defined_pieces_are_cut_out_first(tmp_path: Path) -> None:
    """A SentencePiece model says it of its pieces; no JSON file beside it need repeat it."""
    tiny_tokenizers.write_tokenizer("gemma", "GemmaForCausalLM", tmp_path)
    model = write_gguf(tmp_path / "vocabulary.gguf", tokenizer_metadata(tmp_path, {"vocab_size": 384}, style="gemma"))
    found = check(model, tmp_path)
    assert found.grade is Grade.EXACT, found.details
    kinds = read_header(model).metadata["tokenizer.ggml.token_type"]
    plain = with_metadata(
        model, tmp_path / "plain.gguf", tokenizer__ggml__token_type=[1 if kind == 4 else kind for kind in kinds]
    )
    assert check(plain, tmp_path).grade is Grade.FAILED


@pytest.mark.parametrize("style", ["gemma-4", "internlm2", "roberta", "xlm-roberta", "t5", "modern-bert", "euro-bert"])
def test_every_kind_of_family_passes(style: str, tmp_path: Path) -> None:
    tiny_tokenizers.WRITERS[style](tmp_path)
    kind = "bert" if "roberta" in style else style
    model = write_gguf(tmp_path / "vocabulary.gguf", tokenizer_metadata(tmp_path, {"vocab_size": 384}, style=kind))
    found = check(model, tmp_path)
    assert found.grade in (Grade.EXACT, Grade.CLOSE), found.details
    assert found.figures["different_texts"] <= 2


@pytest.fixture(scope="module")
def tekken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a vocabulary for a pre-tokenizer of which llama.cpp knows no marks."""
    folder = tmp_path_factory.mktemp("tekken")
    row = next(row for row in TABLE if row.name == "tekken")
    config = write_byte_level(folder, row.pre_tokenizer(), ignore_merges=True)
    write_gguf(folder / "vocabulary.gguf", tokenizer_metadata(folder, config))
    return folder


def test_marks_are_close(tekken: Path) -> None:
    found = check(tekken / "vocabulary.gguf", tekken)
    assert found.grade is Grade.CLOSE, found.details
    assert found.figures["known_differences"] == found.figures["different_texts"] > 5


def test_marks_excuse_no_other_word_of_their_text(tekken: Path, tmp_path: Path) -> None:
    """Two words that stand only beside marks have changed places in the file."""
    model = tekken / "vocabulary.gguf"
    tokens = read_header(model).metadata["tokenizer.ggml.tokens"]
    in_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    first, second = (tokens.index(in_bytes.pre_tokenize_str(word)[0][0]) for word in (" מה", " שלומך"))
    tokens[first], tokens[second] = tokens[second], tokens[first]
    wrong = with_metadata(model, tmp_path / "wrong.gguf", tokenizer__ggml__tokens=tokens)
    assert check(wrong, tekken).grade is Grade.FAILED


def test_a_damaged_tokenizer_is_a_failure(tmp_path: Path) -> None:
    model = write_unigram(tmp_path, [-1.0, -2.0, -30.0])
    path = tmp_path / "tokenizer.json"
    path.write_text(path.read_text()[:-40])
    found = check(model, tmp_path)
    assert found.grade is Grade.FAILED
    assert "tokenizer.json: its own library does not take" in found.summary
    path.unlink()
    assert check(model, tmp_path).grade is Grade.SKIPPED


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
