"""Where llama.cpp cuts text otherwise than the original whatever the file says: what of a text must still be equal."""

import re
import unicodedata
from collections.abc import Iterator, Sequence

from ggufkit.checkpoints.vocabulary.token_types import ENDS_BY_NAME, FILLS_BY_NAME, TokenType, looks_special
from ggufkit.gguf_file.reader import GgufHeader

REASONS = {
    "bert": "llama.cpp drops accents and control characters in its own way (Hangul, marks with a width, U+0085); "
    "without those characters the texts are cut alike",
    "t5": "llama.cpp normalizes decomposed text as SentencePiece does, takes fewer characters for spaces, and has no "
    "bytes for what the vocabulary lacks; composed, with plain spaces and bytes as unknown, the texts are cut alike",
    "llama": "llama.cpp puts a space behind user-defined tokens as behind control tokens, and takes some tokens for "
    "control tokens by their names; without those tokens the texts are cut alike",
    "gpt2": "for this pre-tokenizer llama.cpp knows neither marks nor case beyond a-z; without them the texts are cut "
    "alike",
}
"""What is otherwise, by `tokenizer.ggml.model`."""

# llama.cpp writes the regular expressions of these without the classes of marks and of letters that have case
# (src/llama-vocab.cpp: "original regex from tokenizer.json").
_WITHOUT_MARKS = {"tekken", "gpt-4o", "llama4", "tiny_aya", "minimax-m2"}
_MANY_SPACES_BEFORE_A_NUMBER = re.compile(r"\s+(?=\s\d)")
_SMALL_BEFORE_CAPITAL = re.compile(r"[^\W\d_A-Za-z]+(?=[A-Z])")
_LONG_WORD = re.compile(r"\S{101,}")  # unknown to BERT as a whole (`max_input_chars_per_word`)
_OTHER_SPACE = re.compile(r"[\s▁]")
_NEXT_LINE = "\x85"  # `tokenizers` cuts at it or drops it, llama.cpp does the other (wpm) or neither (ugm)


def common_text(text: str, header: GgufHeader) -> str:
    """Take out of a text what the file's kind of vocabulary is known to be cut differently for; the rest must be equal.

    After llama.cpp's src/llama-vocab.cpp and src/unicode.cpp. WordPiece (llm_tokenizer_wpm_session): next lines; where
    accents are stripped, all marks go and not just those without width, and a Hangul syllable becomes its first
    letter; where letters are lowered, `İ` becomes one letter. Unigram (llm_tokenizer_ugm_session): next lines; and
    `tokenizers` applies a table of normal forms to whole clusters of marks, llama.cpp (like SentencePiece) from one
    end to the other, so the text is given composed. Without such a table, only U+0020 is a space
    to llama.cpp, and a written ▁ is one beside the one put in front. SentencePiece (llm_tokenizer_spm_session): what
    follows a token that stands for itself gets a space in front, and control tokens are known by name. Byte-level:
    marks, and letters that have case beyond a-z.
    """
    match header.metadata.get("tokenizer.ggml.model"):
        case "t5":
            composed = unicodedata.normalize("NFC", text).replace(_NEXT_LINE, " ")
            has_table = bool(header.metadata.get("tokenizer.ggml.precompiled_charsmap"))
            return composed if has_table else _OTHER_SPACE.sub(" ", composed)
        case "bert":
            return _without_accents(text, header)
        case "llama":
            tokens = sorted(_taken_first(header), key=len, reverse=True)
            return re.sub("|".join(map(re.escape, tokens)), "", text) if tokens else text
        case "gpt2" if (name := header.metadata.get("tokenizer.ggml.pre")) in _WITHOUT_MARKS:
            return _without_case(text, digits=name == "tiny_aya")
    return text


def common_ids(ids: Sequence[int], header: GgufHeader) -> list[int]:
    """Put one unknown token for bytes in a row, where the vocabulary is a unigram one: llama.cpp has no bytes there."""
    metadata = header.metadata
    unknown = metadata.get("tokenizer.ggml.unknown_token_id")
    kinds = metadata.get("tokenizer.ggml.token_type")
    if metadata.get("tokenizer.ggml.model") != "t5" or not isinstance(unknown, int) or not isinstance(kinds, list):
        return list(ids)
    found: list[int] = []
    for token in ids:
        is_byte = 0 <= token < len(kinds) and kinds[token] == TokenType.BYTE
        if not (is_byte and found and found[-1] == unknown):
            found.append(unknown if is_byte else token)
    return found


def _without_accents(text: str, header: GgufHeader) -> str:
    lowers = header.metadata.get("tokenizer.ggml.normalizer.lowercase", True)
    strips = header.metadata.get("tokenizer.ggml.normalizer.strip_accents", lowers)
    return "".join(
        character
        for character in _LONG_WORD.sub("", text)
        if not (character == _NEXT_LINE or (lowers and character == "\u0130") or (strips and _loses_more(character)))
    )


def _loses_more(character: str) -> bool:
    """Tell whether llama.cpp's way to strip accents takes more from this character than its accents."""
    is_hangul = "\uac00" <= character <= "\ud7a3"
    return is_hangul or any(
        unicodedata.category(part) in ("Mc", "Me") for part in unicodedata.normalize("NFD", character)
    )


def _taken_first(header: GgufHeader) -> Iterator[str]:
    """Give the tokens of a SentencePiece vocabulary at which llama.cpp takes text apart before anything else."""
    spaced = header.metadata.get("tokenizer.ggml.add_space_prefix", True)
    texts, kinds = (header.metadata.get(f"tokenizer.ggml.{key}") for key in ("tokens", "token_type"))
    if isinstance(texts, list) and isinstance(kinds, list):
        for text, kind in zip(texts, kinds, strict=False):
            if not isinstance(text, str) or not text:
                continue
            by_name = text in ENDS_BY_NAME or text in FILLS_BY_NAME or looks_special(text)
            if by_name or (spaced and kind == TokenType.USER_DEFINED):
                yield text


def _without_case(text: str, *, digits: bool) -> str:
    """Take out marks, and letters beyond ASCII at which a word changes case; spaces and numbers, where they matter."""
    kinds = ("Lu", "Lt", "Nd") if digits else ("Lu", "Lt")
    plain = "".join(
        character
        for character in text
        if not ((kind := unicodedata.category(character)).startswith("M") or (character > "\x7f" and kind in kinds))
    )
    plain = _SMALL_BEFORE_CAPITAL.sub("", plain)
    return _MANY_SPACES_BEFORE_A_NUMBER.sub("", plain) if digits else plain
