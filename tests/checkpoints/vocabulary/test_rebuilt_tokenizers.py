"""Real vocabularies, and what fine-tunes make of them: the right pre-tokenizer, and the ids of the original."""

import json
import unicodedata
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import rebuilt_tokenizers
from rebuilt_tokenizers import BYTE_LEVEL, MERGING, OTHERS, VARIANTS, fields_of, recorded, sentencepiece_model
from tokenizers import Tokenizer
from vocabulary_folders import corpus, llama_vocabulary, write_config, write_gguf

from ggufkit.checkpoints.vocabulary import read_vocabulary
from ggufkit.checkpoints.vocabulary.token_types import ENDS_BY_NAME
from ggufkit.conversion.pretokenizer_search import find_pretokenizer
from ggufkit.llamacpp.pretokenizers import pretokenizer

pytestmark = [pytest.mark.oracle, pytest.mark.engine]

QUICK = {"gpt-2", "starcoder", "llama-spm", "bert-bge"}
STYLES = {"gemma-4": "gemma-4", "bert-bge": "bert", "nomic-bert-moe": "bert"}


def cases() -> list[Any]:
    """Every vocabulary as it is and changed; the small ones, each change by itself."""
    together = "50 more, renamed, shuffled"
    return [
        pytest.param(name, variant, marks=[] if name in QUICK else [pytest.mark.slow], id=f"{name}: {variant}")
        for name in (*BYTE_LEVEL, *MERGING, *OTHERS)
        for variant in VARIANTS
        if (variant != together if name in QUICK else variant in ("as it is", together, "trimmed"))
    ]


@lru_cache(maxsize=1)
def rebuilt(name: str) -> dict[str, Any]:
    return rebuilt_tokenizers.tokenizer_json(name)


@pytest.mark.parametrize(("name", "variant"), cases())
def test_name_and_ids(name: str, variant: str, tmp_path: Path):
    content = VARIANTS[variant](rebuilt(name))
    config = rebuilt_tokenizers.write(tmp_path, content)
    style = STYLES.get(name, "auto")
    vocabulary = read_vocabulary(tmp_path, config, style=style, find_pretokenizer=find_pretokenizer)
    if name in BYTE_LEVEL:
        wanted, found = pretokenizer(fields_of(name).get("pre", "gpt-2")), vocabulary.metadata["tokenizer.ggml.pre"]
        assert isinstance(found, str)
        assert wanted
        assert pretokenizer(found).cut == wanted.cut  # type: ignore[union-attr]
    original = Tokenizer.from_str(json.dumps(content))
    # llama.cpp takes these for control tokens because of their texts, though they are ordinary ones here.
    plain = ENDS_BY_NAME & (set(original.get_vocab()) - {entry["content"] for entry in content["added_tokens"]})
    texts = [text for text in [*corpus(), *(text for text, _ in recorded(name))] if keeps(name, content, text, plain)]
    assert len(texts) >= 45
    with llama_vocabulary(write_gguf(tmp_path / "v.gguf", vocabulary.metadata)) as llama:
        differing = [t for t in texts if llama.encode(t) != original.encode(t, add_special_tokens=False).ids]
        assert differing == []
        if variant == "as it is":
            assert [t for t, ids in recorded(name) if llama.encode(t, parse_special=False) != ids] == []


def keeps(name: str, content: dict[str, Any], text: str, plain: frozenset[str]) -> bool:
    """Leave out what llama.cpp does otherwise, whatever the file says: see test_token_ids.py and test_encoders.py."""
    if any(token in text for token in plain):
        return False
    if name == "bert-bge":
        kinds = {unicodedata.category(character) for character in unicodedata.normalize("NFD", text)}
        hangul = any("\uac00" <= character <= "\ud7a3" for character in unicodedata.normalize("NFC", text))
        return not (kinds & {"Mc", "Me"} or hangul or {"\u2028", "\x85"} & set(text))
    composes = content["normalizer"] == {"type": "NFC"} or name == "nomic-bert-moe"
    return not (composes and not unicodedata.is_normalized("NFC", text)) and not (
        name == "nomic-bert-moe" and "\x85" in text
    )


@pytest.mark.parametrize("name", ["llama-spm", pytest.param("baichuan", marks=pytest.mark.slow)])
@pytest.mark.parametrize("prefix", [True, False])
def test_tokenizer_model(name: str, prefix: bool, tmp_path: Path):
    from sentencepiece import SentencePieceProcessor

    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model(name, add_dummy_prefix=prefix))
    original = SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    config = write_config(tmp_path, original.vocab_size() + 7)
    metadata = read_vocabulary(tmp_path, config, style="llama").metadata
    texts = [*corpus(), *(text for text, _ in recorded(name))]
    with llama_vocabulary(write_gguf(tmp_path / "v.gguf", metadata)) as llama:
        assert [t for t in texts if llama.encode(t, parse_special=False) != original.encode(t)] == []
        if prefix:
            assert [t for t, ids in recorded(name) if llama.encode(t, parse_special=False) != ids] == []
