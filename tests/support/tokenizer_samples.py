"""tokenizer.json files small enough to be read, one of each kind."""

from typing import Any

QWEN2_REGEX = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def added(token_id: int, text: str, *, special: bool = True, normalized: bool = False) -> dict[str, Any]:
    return {"id": token_id, "content": text, "special": special, "normalized": normalized}


def split(regex: str, behavior: str = "Isolated", invert: bool = False) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": invert}


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
BYTE_LEVEL: dict[str, Any] = {
    "added_tokens": [added(5, "<|end|>")],
    "normalizer": {"type": "NFC"},
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split(QWEN2_REGEX), BYTES]},
    "post_processor": None,
    "model": {
        "type": "BPE",
        "vocab": {"a": 0, "b": 1, "Ġ": 2, "ab": 3, "Ġab": 4},
        "merges": ["a b", ["Ġ", "ab"]],
    },
}
BYTE_TOKENS = [f"<0x{byte:02X}>" for byte in range(256)]
MERGING: dict[str, Any] = {
    "added_tokens": [added(0, "<unk>"), added(1, "<s>")],
    "normalizer": {
        "type": "Sequence",
        "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ],
    },
    "pre_tokenizer": None,
    "model": {
        "type": "BPE",
        "byte_fallback": True,
        "vocab": {text: index for index, text in enumerate(["<unk>", "<s>", *BYTE_TOKENS, "▁", "a", "b", "ab", "▁ab"])},
        "merges": ["a b", "▁ ab"],
    },
}
WORDPIECE: dict[str, Any] = {
    "added_tokens": [added(0, "[UNK]"), added(1, "[CLS]"), added(2, "[SEP]")],
    "normalizer": {"type": "BertNormalizer", "clean_text": True, "lowercase": True, "strip_accents": None},
    "pre_tokenizer": {"type": "BertPreTokenizer"},
    "model": {
        "type": "WordPiece",
        "unk_token": "[UNK]",
        "continuing_subword_prefix": "##",
        "vocab": {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "a": 3, "##b": 4},
    },
}
UNIGRAM: dict[str, Any] = {
    "added_tokens": [added(0, "<pad>"), added(1, "</s>"), added(2, "<unk>"), added(5, "<extra>")],
    "normalizer": {"type": "Sequence", "normalizers": [{"type": "Precompiled", "precompiled_charsmap": ""}]},
    "pre_tokenizer": {
        "type": "Sequence",
        "pretokenizers": [{"type": "WhitespaceSplit"}, {"type": "Metaspace", "replacement": "▁"}],
    },
    "model": {
        "type": "Unigram",
        "unk_id": 2,
        "byte_fallback": False,
        "vocab": [["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0], ["▁a", -1.5], ["b", -2]],
    },
}
