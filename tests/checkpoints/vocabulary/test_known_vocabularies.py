"""The vocabularies that llama.cpp carries: our table must lead to the names that its converter finds by hash."""

import ast
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import gguf
import pytest
from tokenizers import Tokenizer
from vocabulary_folders import LlamaVocabulary, corpus, llama_vocabulary

from ggufkit.checkpoints.vocabulary.pretokenizers import TABLE, Row, known_row
from ggufkit.llamacpp.find import find_source

pytestmark = [pytest.mark.oracle, pytest.mark.engine, pytest.mark.slow]

# File -> the row whose structure its model has.
VOCABULARIES = {
    "gpt-2": "gpt-2",
    "llama-bpe": "llama-bpe",
    "qwen2": "qwen2",
    "deepseek-llm": "deepseek-llm",
    "deepseek-coder": "deepseek-coder",
    "falcon": "falcon",
    "starcoder": "smollm",
}
SAME_TO_LLAMA_CPP = {"starcoder", "smollm", "refact", "command-r"}  # they differ in how spaces are cleaned up at output


def upstream_hashes() -> tuple[str, dict[str, set[str]]]:
    """Read from the converter's source the text that it tokenizes, and the names of the hashes of the ids."""
    source = (find_source() / "conversion" / "base.py").read_text(encoding="utf-8")
    text = re.search(r"^ +chktxt = (.*)$", source, re.MULTILINE)
    assert text
    rows = re.findall(r'if chkhsh == "([0-9a-f]{64})":\s*\n\s*#.*\n\s*res = "([^"]+)"', source)
    names: dict[str, set[str]] = {}
    for digest, name in rows:
        names.setdefault(digest, set()).add(name)
    assert len(names) > 80
    return ast.literal_eval(text[1]), names


def rebuild(path: Path, row: Row) -> tuple[Tokenizer, dict[str, Any], dict[str, Any]]:
    """Make a tokenizer.json of a vocabulary-only GGUF, with the row's structure."""
    fields = {
        key: field.contents() for key, field in gguf.GGUFReader(path).fields.items() if key.startswith("tokenizer")
    }
    tokens, types = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [
        {"id": index, "content": text, "special": kind == 3, **flags}
        for index, (text, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in (3, 4)
    ]
    model = {
        "type": "BPE",
        "vocab": {text: index for index, text in enumerate(tokens)},
        "merges": fields["tokenizer.ggml.merges"],
        "ignore_merges": row.ignore_merges[-1],
    }
    empty = {"version": "1.0", "normalizer": None, "post_processor": None, "decoder": None}
    content = {**empty, "added_tokens": added, "pre_tokenizer": row.pre_tokenizer(), "model": model}
    return Tokenizer.from_str(json.dumps(content)), fields, content


@pytest.mark.parametrize("name", VOCABULARIES)
def test_name_and_ids(name: str):
    path = find_source() / "models" / f"ggml-vocab-{name}.gguf"
    row = next(row for row in TABLE if row.name == VOCABULARIES[name])
    tokenizer, fields, content = rebuild(path, row)
    text, names = upstream_hashes()
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    with_bos = [fields.get("tokenizer.ggml.bos_token_id"), *ids]  # some tokenizers add it by themselves
    found = set().union(*(names.get(digest, set()) for digest in map(digest_of, (ids, with_bos))))
    known = known_row(content, set(fields["tokenizer.ggml.tokens"]))
    assert known
    ours = known.name
    assert ours in found or {ours} | found <= SAME_TO_LLAMA_CPP

    with llama_vocabulary(path) as vocabulary:
        if fields.get("tokenizer.ggml.pre"):
            assert not differing(tokenizer, vocabulary)


def digest_of(ids: list[int]) -> str:
    return hashlib.sha256(str(ids).encode()).hexdigest()


def differing(tokenizer: Tokenizer, vocabulary: LlamaVocabulary) -> list[str]:
    # Qwen's vocabulary has a plain token "</s>", which llama.cpp takes for a control token because of its name.
    texts = [text for text in corpus() if "</s>" not in text]
    return [text for text in texts if tokenizer.encode(text, add_special_tokens=False).ids != vocabulary.encode(text)]
