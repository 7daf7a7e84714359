"""tekken.json and tiktoken's files: llama.cpp must join bytes as their libraries do, by the rank of what comes out."""

import base64
import json
import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, pre_tokenizers
from vocabulary_folders import corpus, llama_vocabulary, write_byte_level, write_gguf, write_json

from ggufkit.checkpoints.vocabulary import read_vocabulary
from ggufkit.checkpoints.vocabulary.bpe import BYTE_CHARACTERS
from ggufkit.checkpoints.vocabulary.pretokenizers import LLAMA3, TABLE, TEKKEN
from ggufkit.errors import CheckpointError

SPECIAL = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> dict[bytes, int]:
    """Learn a vocabulary, and number its tokens in the order in which they were made: bytes first."""
    folder = tmp_path_factory.mktemp("learned")
    row = next(row for row in TABLE if row.name == "tekken")
    write_byte_level(folder, row.pre_tokenizer(), ignore_merges=True, special=(), size=3000)
    vocab = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab()
    byte_of = {character: byte for byte, character in BYTE_CHARACTERS.items()}
    learned = [bytes(byte_of[c] for c in text) for text in sorted(vocab, key=vocab.__getitem__)]
    return {token: rank for rank, token in enumerate(sorted(learned, key=lambda token: len(token) > 1))}


def encode(ranks: Mapping[bytes, int], pattern: str, text: str) -> list[int]:
    """Cut and join as tiktoken does: a word that is a token is one; else the pair with the lowest rank comes first."""
    ids = []
    for word, _ in pre_tokenizers.Split(Regex(pattern), "isolated").pre_tokenize_str(text):
        parts = [word.encode()] if word.encode() in ranks else [bytes([byte]) for byte in word.encode()]
        while len(parts) > 1:
            joined = [ranks.get(a + b, len(ranks)) for a, b in pairwise(parts)]
            if min(joined) == len(ranks):
                break
            at = joined.index(min(joined))
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        ids += [ranks[part] for part in parts]
    return ids


def write_tekken(folder: Path, ranks: Mapping[bytes, int], **changes: Any) -> None:
    vocab = [
        {"rank": rank, "token_bytes": base64.b64encode(token).decode(), "token_str": None}
        for token, rank in ranks.items()
    ]
    config = {"pattern": TEKKEN, "num_vocab_tokens": len(ranks), "default_vocab_size": len(ranks) + 20}
    special = [{"rank": rank, "token_str": text, "is_control": True} for rank, text in enumerate(SPECIAL)]
    content = {"config": {**config, "default_num_special_tokens": 20, "version": "v11"}, "vocab": vocab}
    write_json(folder / "tekken.json", {**content, "special_tokens": special, **changes})


@pytest.mark.oracle
@pytest.mark.engine
def test_tekken(tmp_path: Path, ranks: dict[bytes, int]):
    write_tekken(tmp_path, ranks)
    vocabulary = read_vocabulary(tmp_path, {"vocab_size": len(ranks) + 30}, style="llama")
    metadata = vocabulary.metadata
    assert metadata["tokenizer.ggml.pre"] == "tekken"
    assert metadata["tokenizer.ggml.tokens"][:6] == [*SPECIAL, "<SPECIAL_5>"]  # type: ignore[index]
    ids = {"bos": 1, "eos": 2, "unknown": 0}
    assert {role: metadata[f"tokenizer.ggml.{role}_token_id"] for role in ids} == ids
    assert metadata["tokenizer.ggml.add_bos_token"] is True
    assert "combining marks" in vocabulary.remarks[0]
    # Without words that llama.cpp cuts otherwise under this name: test_token_ids.py.
    texts = [text for text in corpus() if text.isascii()] + ["[INST]Was kostet das?[/INST]"]
    assert len(texts) > 20
    with llama_vocabulary(write_gguf(tmp_path / "v.gguf", metadata)) as llama:
        for text in texts[:-1]:
            plain = re.sub("<unk>|</?s>|.INST.|./INST.", "", text)
            assert llama.encode(plain) == [20 + token_id for token_id in encode(ranks, TEKKEN, plain)], text
        assert llama.encode(texts[-1])[0] == 3


@pytest.mark.oracle
@pytest.mark.engine
@pytest.mark.parametrize("name", ["tokenizer.model", "vocabulary.tiktoken"])
def test_tiktoken(tmp_path: Path, ranks: dict[bytes, int], name: str):
    """As GLM-4-9B was released: a tokenizer.model that is no SentencePiece model."""
    lines = (f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks.items())
    (tmp_path / name).write_text("".join(lines), encoding="ascii")
    more = ["<|endoftext|>", "[MASK]", "[gMASK]", "<sop>", "<|user|>"]
    added = {str(len(ranks) + n): {"content": text, "special": True} for n, text in enumerate(more)}
    settings = {"tokenizer_class": "ChatGLM4Tokenizer", "added_tokens_decoder": added, "eos_token": "<|endoftext|>"}
    write_json(tmp_path / "tokenizer_config.json", settings)
    metadata = read_vocabulary(tmp_path, {"padded_vocab_size": len(ranks) + 64}, style="chatglm").metadata
    assert metadata["tokenizer.ggml.pre"] == "glm4"
    assert metadata["tokenizer.ggml.eos_token_id"] == len(ranks)
    assert metadata["tokenizer.ggml.eot_token_id"] == len(ranks) + 4
    with llama_vocabulary(write_gguf(tmp_path / "v.gguf", metadata)) as llama:
        texts = [text for text in corpus() if "<|" not in text]
        assert [text for text in texts if llama.encode(text) != encode(ranks, LLAMA3, text)] == []
        assert llama.encode("[gMASK]<sop><|user|>") == [len(ranks) + n for n in (2, 3, 4)]


class TestMistakes:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"config": None}, "no `config`"),
            ({"config": {"default_vocab_size": "x"}}, "`default_vocab_size` is"),
            ({"vocab": [{"rank": 0, "token_bytes": "!"}]}, "rank 0 is not base64"),
            ({"vocab": [{"rank": 0, "token_bytes": ""}]}, "no new token with a rank"),
            ({"vocab": [{"rank": 0, "token_bytes": "YQ=="}] * 2}, "no new token with a rank"),
            ({"vocab": [{"rank": n, "token_bytes": text} for n, text in ((0, "YQ=="), (0, "Yg=="))]}, "one id"),
            ({"special_tokens": [{"rank": 99, "token_str": "x"}]}, "a rank of its own"),
        ],
    )
    def test_tekken(self, tmp_path: Path, changes: dict[str, Any], message: str):
        write_tekken(tmp_path, {b"a": 0, b"b": 1}, **changes)
        with pytest.raises(CheckpointError, match=message):
            read_vocabulary(tmp_path, {})

    def test_a_pattern_that_llama_cpp_does_not_have(self, tmp_path: Path):
        write_tekken(tmp_path, {b"a": 0})
        content = json.loads((tmp_path / "tekken.json").read_text(encoding="utf-8"))
        content["config"]["pattern"] = r"\p{L}+"
        write_json(tmp_path / "tekken.json", content)
        with pytest.raises(CheckpointError, match="no pre-tokenizer for its `pattern`") as caught:
            read_vocabulary(tmp_path, {})
        assert "--pre" in (caught.value.hint or "")
        assert read_vocabulary(tmp_path, {}, pretokenizer="qwen2").metadata["tokenizer.ggml.pre"] == "qwen2"

    @pytest.mark.parametrize("lines", ["YQ== 0\nnonsense\n", "YQ== 0\nYQ== 1\n", "YQ== 0\nY=Q 1\n"])
    def test_tiktoken(self, tmp_path: Path, lines: str):
        (tmp_path / "tokenizer.model").write_text(lines, encoding="ascii")
        write_json(tmp_path / "tokenizer_config.json", {"tokenizer_class": "ChatGLM4Tokenizer"})
        with pytest.raises(CheckpointError, match=r"tokenizer\.model: line 2"):
            read_vocabulary(tmp_path, {})

    def test_an_unknown_class(self, tmp_path: Path):
        (tmp_path / "x.tiktoken").write_text("YQ== 0\n", encoding="ascii")
        with pytest.raises(CheckpointError, match="does not tell how text is cut"):
            read_vocabulary(tmp_path, {})
