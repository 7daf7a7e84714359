"""Two tokenizer.json files small enough to be read: byte-level BPE, and SentencePiece kept as merges."""

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
