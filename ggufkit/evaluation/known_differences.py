"""Where llama.cpp cuts text otherwise than the original whatever the file says: what of a text must still be equal."""

import re
import unicodedata

from ggufkit.gguf_file.reader import GgufHeader

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
    to llama.cpp, and a written ▁ is one beside the one put in front.
    """
    kind = header.metadata.get("tokenizer.ggml.model")
    if kind == "t5":
        composed = unicodedata.normalize("NFC", text).replace(_NEXT_LINE, " ")
        has_table = bool(header.metadata.get("tokenizer.ggml.precompiled_charsmap"))
        return composed if has_table else _OTHER_SPACE.sub(" ", composed)
    if kind != "bert":
        return text
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
