# ruff: noqa: RUF001 - regular expressions as they are in the wild: they are compared to the letter
"""How text is cut before pairs are merged: llama.cpp's name for what a tokenizer.json does.

llama.cpp's converter recognises a vocabulary by the hash of the ids that it gives to a fixed text, so it knows single
vocabularies. Here the structure itself is looked up: the normalizer, the chain of pre-tokenizers with their regular
expressions, and `ignore_merges`. So any vocabulary with a known structure converts, and an unknown one is refused.

The chains are those of the named models' tokenizer.json. Each row is proved in tests/checkpoints/vocabulary/:
test_token_ids.py - llama.cpp, given the name, must cut the test corpus into the ids that the tokenizers library gives;
test_known_vocabularies.py - the row must lead to the name that llama.cpp's converter finds by hash.
To add a row, take the chain from the model's tokenizer.json; those tests tell whether the name is right.
"""

import json
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from ggufkit.checkpoints.vocabulary.files import CONVERTER_HINT, PRE_HINT, flat_stages
from ggufkit.errors import CheckpointError

Stage: TypeAlias = tuple[str, ...]
"""One pre-tokenizer in short: its type, then the settings that matter."""


@dataclass(frozen=True, slots=True)
class Row:
    """A known structure. `marker`: a token by which one of several vocabularies with one structure is told apart.

    `differs` says where llama.cpp, under this name, is known to cut otherwise than the structure does.
    """

    name: str
    stages: tuple[Stage, ...]
    model: str  # a model that has it
    ignore_merges: tuple[bool, ...] = (False,)
    marker: str | None = None
    differs: str | None = None

    def pre_tokenizer(self) -> dict[str, Any]:
        """Spell the structure as tokenizer.json does."""
        parts = [_spelled(*stage) for stage in self.stages]
        return parts[0] if len(parts) == 1 else {"type": "Sequence", "pretokenizers": parts}


_MARKS = (
    "under this pre-tokenizer llama.cpp cuts words with combining marks, and words that change case at a letter beyond "
    "a-z, otherwise than the original"
)

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SYMBOLS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_LOWER_END = r"[^\r\n\p{L}\p{N}]?" + _UPPER + "*" + _LOWER + "+"
_UPPER_START = r"[^\r\n\p{L}\p{N}]?" + _UPPER + "+" + _LOWER + "*"
_SYMBOLS_SLASH = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"

LLAMA3 = "|".join((_CONTRACTIONS, _WORDS, r"\p{N}{1,3}", _SYMBOLS, _SPACES))
QWEN2 = "|".join((_CONTRACTIONS, _WORDS, r"\p{N}", _SYMBOLS, _SPACES))
QWEN35 = "|".join(
    (_CONTRACTIONS, r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+", r"\p{N}", r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*", _SPACES)
)
TEKKEN = "|".join((_LOWER_END, _UPPER_START, r"\p{N}", _SYMBOLS_SLASH, _SPACES))
GPT4O = "|".join(
    (f"{_LOWER_END}{_CONTRACTIONS}?", f"{_UPPER_START}{_CONTRACTIONS}?", r"\p{N}{1,3}", _SYMBOLS_SLASH, _SPACES)
)
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
MINICPM5 = "|".join((_CONTRACTIONS, _WORDS, r"\p{N}+", _SYMBOLS, _SPACES))
SEED_CODER = "|".join((_CONTRACTIONS, _WORDS, r"\p{N}{1}", r" ?[^\s\p{L}\p{N}\r\n]+", _SPACES))
_ASCII_SYMBOL = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"
_MARKED_WORDS = _ASCII_SYMBOL + r"[A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
DEEPSEEK3 = "|".join((_MARKED_WORDS, r" ?[\p{P}\p{S}]+[\r\n]*", _SPACES))
SPARK = "|".join((_MARKED_WORDS, r" ?[\p{P}\p{S}]+", r"[\r\n]", r"\s+(?!\S)", r"\s+"))
BAILING = "|".join(
    (
        "'(?i:[sdmt]|ll|ve|re)",
        r"[^\r\n\p{L}\p{N}]?+\p{L}+",
        r"\p{N}",
        r" ?[^\s\p{L}\p{N}]++[\r\n]*",
        r"\s*[\r\n]",
        r"\s+(?!\S)",
        r"\s+",
    )
)
_CASED_LETTERS = (
    "µÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝ"
    "Ὗ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-"
    "ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃"
)

# Whatever the text, one of their branches matches, so it makes no difference whether a tokenizer.json isolates the
# matches, or (as tiktoken's files are often converted) removes what is not matched.
_COVER_EVERYTHING = frozenset({LLAMA3, QWEN2, QWEN35, TEKKEN, GPT4O, GPT2, SEED_CODER, MINICPM5})

_ONE_SPACE = ({"String": " "}, {"Regex": " "})

_BYTES: Stage = ("ByteLevel",)
_BYTES_GPT2: Stage = ("ByteLevel", "regex")
_DIGITS: Stage = ("Digits", "individual")
_THREE_DIGITS: Stage = ("Split", r"\p{N}{1,3}")
_HAN_KANA: Stage = ("Split", "[一-龥぀-ゟ゠-ヿ]+")
_HAN_HANGUL: Stage = ("Split", "[一-龥ࠀ-一가-퟿]+")

TABLE: tuple[Row, ...] = (
    Row("gpt-2", (_BYTES_GPT2,), "openai-community/gpt2"),
    Row("gpt-2", (("Split", GPT2), _BYTES), "the same, written out"),
    Row("llama-bpe", (("Split", LLAMA3), _BYTES), "meta-llama/Meta-Llama-3-8B", ignore_merges=(True,)),
    Row("dbrx", (("Split", LLAMA3), _BYTES), "ibm-granite/granite-4.1-3b"),
    Row("deepseek-r1-qwen", (("Split", QWEN2), _BYTES), "DeepSeek-R1-Distill-Qwen", marker="<｜begin▁of▁sentence｜>"),
    Row("qwen2", (("Split", QWEN2), _BYTES), "Qwen/Qwen3-0.6B"),
    Row("qwen35", (("Split", QWEN35), _BYTES), "Qwen/Qwen3.5-9B"),
    Row("tekken", (("Split", TEKKEN), _BYTES), "mistralai/Mistral-Nemo-Base-2407", (True,), differs=_MARKS),
    Row("llama4", (("Split", GPT4O), _BYTES), "meta-llama/Llama-4-Scout", (False, True), "<|header_start|>", _MARKS),
    Row("gpt-4o", (("Split", GPT4O), _BYTES), "openai/gpt-oss-20b", (False, True), differs=_MARKS),
    Row(
        "tiny_aya",
        (("Split", r"\d{1,3}(?=(?:\d{3})*\b)"), ("Split", GPT4O), _BYTES),
        "CohereLabs/tiny-aya-base",
        differs="under this pre-tokenizer llama.cpp cuts several spaces before a number, digits beyond 0-9, and some "
        "letters beyond a-z, otherwise than the original",
    ),
    Row("starcoder", (_DIGITS, _BYTES_GPT2), "bigcode/starcoder2-3b", marker="<fim_prefix>"),
    Row("command-r", (_DIGITS, _BYTES_GPT2), "CohereForAI/c4ai-command-r-v01", marker="<|START_OF_TURN_TOKEN|>"),
    Row("smollm", (_DIGITS, _BYTES_GPT2), "HuggingFaceTB/SmolLM2-135M-Instruct"),
    Row(
        "falcon",
        (("Punctuation", "Contiguous"), _BYTES_GPT2, ("Digits", "runs"), ("Split", "[0-9][0-9][0-9]")),
        "tiiuae/falcon-7b",
    ),
    Row(
        "deepseek-llm",
        (
            ("Split", r"[\r\n]"),
            ("Split", r"\s?[A-Za-z" + _CASED_LETTERS + "]+"),
            ("Split", r"\s?[!-/:-~！-／：-～‘-‟　-。]+"),
            ("Split", r"\s+$"),
            _HAN_HANGUL,
            _DIGITS,
            _BYTES,
        ),
        "deepseek-ai/DeepSeek-V2-Lite",
    ),
    Row(
        "deepseek-coder",
        (("Split", r"[\r\n]"), ("Split", r"\s?\p{L}+"), ("Split", r"\s?\p{P}+"), _HAN_HANGUL, _DIGITS, _BYTES),
        "deepseek-ai/deepseek-coder-6.7b-instruct",
    ),
    Row("deepseek-v3", (_THREE_DIGITS, _HAN_KANA, ("Split", DEEPSEEK3), _BYTES), "deepseek-ai/DeepSeek-V3"),
    Row(
        "spark2_5",
        (_THREE_DIGITS, _HAN_KANA, ("Split", SPARK), _DIGITS, _BYTES),
        "XHToken/Spark-X2.5-1.7B",
    ),
    Row("bailingmoe", (("Split", BAILING), _BYTES), "inclusionAI/Ling-lite"),
    Row("bloom", (("Split", r" ?[^(\s|[.,!?…。，、।۔،])]+"), _BYTES), "bigscience/bloomz-560m"),
    Row("minicpm5", (_THREE_DIGITS, ("Split", MINICPM5), _BYTES), "openbmb/MiniCPM5-1B", ignore_merges=(True,)),
    Row("seed-coder", (("Split", SEED_CODER), _BYTES), "ByteDance-Seed/Seed-Coder-8B-Base"),
)


def known_row(tokenizer: Mapping[str, Any], tokens: Container[str]) -> Row | None:
    """Find the row of a tokenizer.json's structure; `tokens` tells apart those of one structure."""
    stages = tuple(_stages(tokenizer.get("pre_tokenizer")))
    ignore_merges = bool((tokenizer.get("model") or {}).get("ignore_merges", False))
    for row in TABLE:
        if row.stages == stages and ignore_merges in row.ignore_merges and (not row.marker or row.marker in tokens):
            return row
    return None


def written(tokenizer: Mapping[str, Any]) -> str:
    """Write a tokenizer.json's structure in one line, for a message."""
    stages = tuple(_stages(tokenizer.get("pre_tokenizer")))
    ignore_merges = bool((tokenizer.get("model") or {}).get("ignore_merges", False))
    chain = " -> ".join(" ".join(stage) for stage in stages) or "none"
    return f"{chain} (ignore_merges {str(ignore_merges).lower()})"


def check_normalizer(tokenizer: Mapping[str, Any], path: Path) -> None:
    """Refuse a normalizer that llama.cpp has no counterpart of.

    NFC passes: llama.cpp does not compose characters, but text rarely comes decomposed, and its converter agrees. (What
    it does to decomposed text, `ggufkit verify` says.)

    Raises:
        CheckpointError: it changes ordinary text.
    """
    names = [str(part.get("type")) for part in flat_stages(tokenizer.get("normalizer"), "normalizers")]
    if unknown := next((name for name in names if name != "NFC"), None):
        raise CheckpointError(
            f"{path}: llama.cpp has no counterpart of its normalizer: {unknown}", hint=f"{PRE_HINT}; {CONVERTER_HINT}"
        )


def adds_space_prefix(tokenizer: Mapping[str, Any], tokens: Mapping[str, int], path: Path) -> bool:
    """Tell whether a tokenizer.json that keeps a SentencePiece vocabulary puts a space before a text.

    Three spellings are in use: the normalizer prepends and replaces (Llama 2), the normalizer only replaces (Gemma),
    or a Metaspace pre-tokenizer does both (transformers 5).

    Raises:
        CheckpointError: the text is changed or cut in another way, which llama.cpp's tokenizer does not do.
    """
    normalizers = [
        part for part in flat_stages(tokenizer.get("normalizer"), "normalizers") if part.get("type") != "Sequence"
    ]
    stages = list(flat_stages(tokenizer.get("pre_tokenizer"), "pretokenizers"))
    kinds = [str(part.get("type")) for part in (*normalizers, *stages)]
    match kinds:
        case ["Prepend", "Replace"] if not stages and _replaces_spaces(normalizers[1]):
            return bool(normalizers[0].get("prepend") == "▁")
        case ["Replace"] if not stages and _replaces_spaces(normalizers[0]):
            return False
        case ["Replace", "Split"] if _replaces_spaces(normalizers[0]) and stages[0].get("pattern") in _ONE_SPACE:
            return False  # Gemma: no space is left to split at
        case ["Metaspace"] if stages[0].get("replacement") == "▁" and _joins_words(stages[0], tokens):
            scheme = stages[0].get("prepend_scheme", "always" if stages[0].get("add_prefix_space", True) else "never")
            return bool(scheme != "never")
    raise CheckpointError(
        f"{path}: a SentencePiece vocabulary with a normalizer and pre-tokenizer that llama.cpp does not have: "
        f"{' -> '.join(kinds) or 'none'}",
        hint=CONVERTER_HINT,
    )


def _stages(pre_tokenizer: object) -> Iterator[Stage]:
    for part in flat_stages(pre_tokenizer, "pretokenizers"):
        match part.get("type"):
            case "Split":
                yield _split(part)
            case "ByteLevel":
                flags = {"regex": part.get("use_regex", True), "prefix": part.get("add_prefix_space", True)}
                yield ("ByteLevel", *(name for name, flag in flags.items() if flag))
            case "Digits":
                yield ("Digits", "individual" if part.get("individual_digits") else "runs")
            case "Punctuation":
                yield ("Punctuation", str(part.get("behavior", "Isolated")))
            case kind:
                rest = {key: value for key, value in part.items() if key != "type"}
                yield (str(kind), json.dumps(rest, ensure_ascii=False)) if rest else (str(kind),)


def _split(part: Mapping[str, Any]) -> Stage:
    pattern = part.get("pattern")
    if not isinstance(pattern, dict) or not isinstance(pattern.get("Regex"), str):
        return ("Split", json.dumps(pattern, ensure_ascii=False), str(part.get("behavior")))
    # Some files hold the line breaks themselves where others escape them.
    regex = pattern["Regex"].replace("\r", r"\r").replace("\n", r"\n")
    behavior, invert = str(part.get("behavior")).lower(), bool(part.get("invert"))
    if (behavior, invert) == ("isolated", False) or (
        regex in _COVER_EVERYTHING and (behavior, invert) in (("removed", True), ("isolated", True))
    ):
        return ("Split", regex)
    return ("Split", regex, behavior, *(["inverted"] if invert else []))


def _spelled(kind: str, *settings: str) -> dict[str, Any]:
    match kind:
        case "Split":
            pattern = {"Regex": settings[0]}
            return {"type": kind, "pattern": pattern, "behavior": "Isolated", "invert": False}
        case "ByteLevel":
            return {"type": kind, "add_prefix_space": False, "trim_offsets": True, "use_regex": "regex" in settings}
        case "Digits":
            return {"type": kind, "individual_digits": "individual" in settings}
        case _:
            return {"type": kind, "behavior": settings[0]}


def _replaces_spaces(normalizer: Mapping[str, Any]) -> bool:
    return normalizer.get("pattern") == {"String": " "} and normalizer.get("content") == "▁"


def _joins_words(metaspace: Mapping[str, Any], tokens: Mapping[str, int]) -> bool:
    """llama.cpp merges across spaces; a Metaspace that splits at them allows that only if no token holds two words."""
    return not metaspace.get("split", True) or not any("▁" in text[1:] for text in tokens if not text.startswith("<"))
