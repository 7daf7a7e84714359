"""Tokenizers as the hub has them, rebuilt from the vocabularies that llama.cpp's source carries, and variants of them.

A vocabulary-only GGUF holds tokens, merges and scores, but not how text is cut: that comes from STRUCTURES, which says
what the tokenizer.json of the model has.
"""

import base64
import copy
import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ggufkit.checkpoints.vocabulary.pretokenizers import TABLE
from ggufkit.gguf_file.reader import read_header
from ggufkit.llamacpp.find import find_source

Content = dict[str, Any]

NFC = {"type": "NFC"}
# File -> the row of the table that has its structure, and the normalizer.
BYTE_LEVEL: dict[str, tuple[str, Content | None]] = {
    "aquila": ("gpt-2", None),
    "command-r": ("smollm", NFC),
    "deepseek-coder": ("deepseek-coder", None),
    "deepseek-llm": ("deepseek-llm", None),
    "falcon": ("falcon", None),
    "gpt-2": ("gpt-2", None),
    "gpt-neox": ("gpt-2", NFC),
    "llama-bpe": ("llama-bpe", None),
    "mpt": ("gpt-2", NFC),
    "qwen2": ("qwen2", NFC),
    "qwen35": ("qwen35", None),
    "refact": ("smollm", None),
    "starcoder": ("smollm", None),
}
MERGING = ("llama-spm", "phi-3", "baichuan", "gemma-4")
OTHERS = ("bert-bge", "nomic-bert-moe")
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6


def vocabulary_path(name: str) -> Path:
    return find_source() / "models" / f"ggml-vocab-{name}.gguf"


def fields_of(name: str) -> Content:
    metadata = read_header(vocabulary_path(name)).metadata
    prefix = "tokenizer.ggml."
    return {key.removeprefix(prefix): value for key, value in metadata.items() if key.startswith(prefix)}


def recorded(name: str) -> list[tuple[str, list[int]]]:
    """Return the texts that llama.cpp tests with, and the ids that the original tokenizers gave them."""
    path = vocabulary_path(name)
    inputs, outputs = path.with_name(f"{path.name}.inp"), path.with_name(f"{path.name}.out")
    if not inputs.exists():
        return []
    texts = inputs.read_bytes().decode("utf-8").split("\n__ggml_vocab_test__\n")
    lines = outputs.read_text(encoding="utf-8").splitlines()
    return [(text, [int(part) for part in line.split()]) for text, line in zip(texts, lines, strict=False)]


def tokenizer_json(name: str) -> Content:
    """Rebuild the tokenizer.json."""
    fields = fields_of(name)
    if name in BYTE_LEVEL:
        return _byte_level(name, fields)
    return {
        "bert-bge": _wordpiece,
        "nomic-bert-moe": _unigram,
    }.get(name, _merging)(fields)


def _content(fields: Content, model: Content, **parts: Any) -> Content:
    empty = {"version": "1.0", "truncation": None, "padding": None, "normalizer": None, "pre_tokenizer": None}
    added = [
        {**added_token(text, special=kind != USER_DEFINED), "id": token_id}
        for token_id, (text, kind) in enumerate(zip(fields["tokens"], fields["token_type"], strict=True))
        if kind in (UNKNOWN, CONTROL, USER_DEFINED)
    ]
    return {**empty, "added_tokens": added, "post_processor": None, "decoder": None, **parts, "model": model}


def added_token(text: str, *, special: bool = True) -> Content:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"content": text, "special": special, **flags}


def _byte_level(name: str, fields: Content) -> Content:
    row_name, normalizer = BYTE_LEVEL[name]
    row = next(row for row in TABLE if row.name == row_name)
    size = 1 + max(token_id for token_id, kind in enumerate(fields["token_type"]) if kind == NORMAL)
    vocab = {text: token_id for token_id, text in enumerate(fields["tokens"][:size])}
    model = {"type": "BPE", "vocab": vocab, "merges": fields["merges"], "ignore_merges": row.ignore_merges[-1]}
    return _content(fields, model, normalizer=normalizer, pre_tokenizer=row.pre_tokenizer())


def _merging(fields: Content) -> Content:
    """SentencePiece as transformers converts it: every pair that makes a token, by the score of that token."""
    tokens = fields["tokens"]
    vocab = {text: token_id for token_id, text in enumerate(tokens)}
    space = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    normalizer: Content = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, space]}
    split = None
    if "merges" in fields:
        merges: list[Any] = [merge.split(" ") for merge in fields["merges"]]
        normalizer = space
        split = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    else:
        pairs = []
        for text, kind, score in zip(tokens, fields["token_type"], fields["scores"], strict=True):
            if kind == NORMAL:
                halves = ((text[:at], text[at:]) for at in range(1, len(text)))
                pairs += [(-score, vocab[a], vocab[b], [a, b]) for a, b in halves if a in vocab and b in vocab]
        merges = [pair for *_, pair in sorted(pairs)]
    model = {"type": "BPE", "vocab": vocab, "merges": merges, "byte_fallback": True, "fuse_unk": True}
    return _content(fields, {**model, "unk_token": "<unk>"}, normalizer=normalizer, pre_tokenizer=split)


def _wordpiece(fields: Content) -> Content:
    def spelled(text: str, kind: int) -> str:
        return text if kind == CONTROL else text[1:] if text.startswith("▁") else f"##{text}"

    texts = [spelled(*pair) for pair in zip(fields["tokens"], fields["token_type"], strict=True)]
    vocab = {text: token_id for token_id, text in enumerate(texts)}
    model = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "vocab": vocab}
    normalizer = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "lowercase": True}
    return _content(
        fields,
        {**model, "max_input_chars_per_word": 100},
        normalizer={**normalizer, "strip_accents": None},
        pre_tokenizer={"type": "BertPreTokenizer"},
    )


def _unigram(fields: Content) -> Content:
    pieces = list(zip(fields["tokens"], fields["scores"], fields["token_type"], strict=True))
    size = 1 + max(token_id for token_id, (_, _, kind) in enumerate(pieces) if kind != UNUSED)
    charsmap = base64.b64encode(bytes(value & 0xFF for value in fields["precompiled_charsmap"])).decode()
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    stages = {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]}
    model = {"type": "Unigram", "unk_id": 3, "vocab": [[text, score] for text, score, _ in pieces[:size]]}
    normalizer = {"type": "Precompiled", "precompiled_charsmap": charsmap}
    return _content(fields, {**model, "byte_fallback": False}, normalizer=normalizer, pre_tokenizer=stages)


def sentencepiece_model(name: str, *, add_dummy_prefix: bool = True) -> bytes:
    """Rebuild tokenizer.model: pieces, and the settings of a trainer and a normalizer (sentencepiece_model.proto)."""
    fields = fields_of(name)
    pieces = zip(fields["tokens"], fields["scores"], fields["token_type"], strict=True)
    message = b"".join(
        _field(1, _field(1, text.encode()) + b"\x15" + struct.pack("<f", score) + b"\x18" + bytes([kind]))
        for text, score, kind in pieces
    )
    trainer = b"\x18\x02" + b"\xa0\x01\x01" + b"\x98\x02\x01"  # BPE, split digits, byte fallback
    normalizer = _field(1, b"identity") + b"\x18" + bytes([add_dummy_prefix]) + b"\x20\x00"
    return message + _field(2, trainer) + _field(3, normalizer)


def _field(number: int, content: bytes) -> bytes:
    length, encoded = len(content), b""
    while length >= 0x80:
        encoded, length = encoded + bytes([length & 0x7F | 0x80]), length >> 7
    return bytes([number << 3 | 2]) + encoded + bytes([length]) + content


def as_it_is(content: Content) -> Content:
    return content


def with_50_more(content: Content) -> Content:
    """A fine-tune that adds tokens: control tokens, and words."""
    next_id = 1 + max(_ids(content))
    more = [added_token(f"<|tool_{n}|>" if n % 2 else f"[word {n}]", special=bool(n % 2)) for n in range(50)]
    entries = [{**entry, "id": next_id + n} for n, entry in enumerate(more)]
    return {**content, "added_tokens": [*content["added_tokens"], *entries]}


def renamed(content: Content) -> Content:
    """A fine-tune that gives the added tokens other names, and words that no merge makes."""
    content = copy.deepcopy(content)
    vocab = content["model"]["vocab"]
    for number, entry in enumerate(content["added_tokens"]):
        text = entry["content"]
        if text in ("[CLS]", "[SEP]", "[UNK]", "<unk>") or not text.startswith("<"):
            continue
        entry["content"] = f"<|renamed_{number}|>"
        if isinstance(vocab, dict) and text in vocab:
            vocab[entry["content"]] = vocab.pop(text)
        elif isinstance(vocab, list) and entry["id"] < len(vocab):
            vocab[entry["id"]][0] = entry["content"]
    return content


def shuffled(content: Content) -> Content:
    """The texts of added tokens change places."""
    content = copy.deepcopy(content)
    vocab = content["model"]["vocab"]
    entries = [e for e in content["added_tokens"] if not (isinstance(vocab, list) or e["content"] in vocab)]
    texts = [(entry["content"], entry["special"]) for entry in entries]
    random.Random(1).shuffle(texts)
    for entry, (text, special) in zip(entries, texts, strict=True):
        entry["content"], entry["special"] = text, special
    return content


def trimmed(content: Content) -> Content:
    """The last third of the vocabulary is gone, and every merge that needs it; added tokens close the gap."""
    content = copy.deepcopy(content)
    model = content["model"]
    kept_always = {entry["content"] for entry in content["added_tokens"]}
    if isinstance(model["vocab"], list):
        return content
    order = sorted(model["vocab"], key=model["vocab"].__getitem__)
    alphabet = {text for text in order if len(text) <= 1 or (text.startswith("<0x") and len(text) == 6)}
    cut = set(order[: len(order) * 2 // 3]) | alphabet | (kept_always & set(order))
    texts = [text for text in order if text in cut]
    model["vocab"] = {text: token_id for token_id, text in enumerate(texts)}
    if "merges" in model:
        pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
        model["merges"] = [[a, b] for a, b in pairs if {a, b, a + b} <= cut]
    next_id = len(texts)
    for entry in content["added_tokens"]:
        if entry["content"] in model["vocab"]:
            entry["id"] = model["vocab"][entry["content"]]
        else:
            entry["id"], next_id = next_id, next_id + 1
    return content


def together(content: Content) -> Content:
    """All changes that leave the vocabulary proper alone."""
    return shuffled(renamed(with_50_more(content)))


VARIANTS: dict[str, Callable[[Content], Content]] = {
    "as it is": as_it_is,
    "50 more": with_50_more,
    "renamed": renamed,
    "shuffled": shuffled,
    "50 more, renamed, shuffled": together,
    "trimmed": trimmed,
}


def _ids(content: Content) -> list[int]:
    vocab = content["model"]["vocab"]
    base = vocab.values() if isinstance(vocab, dict) else range(len(vocab))
    return [*base, *(entry["id"] for entry in content["added_tokens"])]


def write(folder: Path, content: Content) -> Content:
    """Write a folder with the tokenizer and a config that fits it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    config = {"architectures": ["LlamaForCausalLM"], "vocab_size": 1 + max(_ids(content)) + 3}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return config
