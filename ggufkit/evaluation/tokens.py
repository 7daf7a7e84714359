"""Token ids: given the GGUF file, llama.cpp must cut every text of a hard corpus as the original tokenizer does."""

import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ggufkit.errors import CheckpointError, GgufkitError, MissingDependencyError
from ggufkit.evaluation import engine_child
from ggufkit.evaluation.known_differences import common_text
from ggufkit.evaluation.original_tokenizer import OriginalTokenizer, open_tokenizer
from ggufkit.evaluation.results import Check, Grade
from ggufkit.evaluation.texts import hard_texts
from ggufkit.gguf_file.reader import GgufHeader

NAME = "tokens"
_SHOWN = 5

# llama.cpp writes the regular expressions of these without the classes of marks and of letters that have case
# (src/llama-vocab.cpp: "original regex from tokenizer.json"), so it cuts words that hold such letters elsewhere.
_WITHOUT_MARKS = {"tekken", "gpt-4o", "llama4"}
_REASONS = {
    "bert": "llama.cpp drops accents and control characters in its own way (Hangul, marks with a width, U+0085); "
    "without those characters the texts are cut alike",
    "t5": "llama.cpp normalizes decomposed text as SentencePiece does, and takes fewer characters for spaces; composed "
    "and with plain spaces the texts are cut alike",
}


def check_tokens(model: Path, checkpoint: Path, parts: Sequence[GgufHeader]) -> Check:
    """Compare the ids of every text; where llama.cpp is known to differ whatever the file says, say so."""
    if parts[0].metadata.get("tokenizer.ggml.model", "no_vocab") == "no_vocab":
        return Check(NAME, Grade.SKIPPED, "the file holds no vocabulary")
    try:
        original = open_tokenizer(checkpoint)
    except (MissingDependencyError, CheckpointError) as error:
        return Check(NAME, Grade.SKIPPED, str(error))
    texts = hard_texts()
    try:
        wanted = [original.encode(text) for text in texts]
        # llama.cpp does not normalize: a text that the original composes first is given to it composed as well.
        composed = [unicodedata.normalize("NFC", text) if original.normalizes else text for text in texts]
        found = engine_child.tokenize(model, [*texts, *composed], parse_special=original.parses_special)
        same = [ids == got for ids, got in zip(wanted, found, strict=False)]
        same_composed = [ids == got for ids, got in zip(wanted, found[len(texts) :], strict=True)]
        unnormalized = [text for text, ok, again in zip(texts, same, same_composed, strict=True) if again and not ok]
        different = [index for index in range(len(texts)) if not same[index] and not same_composed[index]]
        known = _known([texts[index] for index in different], parts[0], original, model) if different else []
    except (MissingDependencyError, CheckpointError) as error:
        return Check(NAME, Grade.SKIPPED, str(error))
    except GgufkitError as error:
        return Check(NAME, Grade.FAILED, str(error))
    figures: dict[str, Any] = {
        "judge": original.judge,
        "texts": len(texts),
        "tokens": sum(map(len, wanted)),
        "different_texts": len(different),
        "known_differences": sum(known),
        "unnormalized_texts": len(unnormalized),
    }
    faults = [index for index, is_known in zip(different, known, strict=True) if not is_known]
    shown = [*faults, *(index for index in different if index not in faults)][:_SHOWN]
    details = [_difference(texts[index], wanted[index], found[index]) for index in shown]
    summary = f"ids of {len(texts)} texts ({figures['tokens']:,} tokens) equal those of {original.judge}"
    if faults:
        summary = f"{len(faults)} of {len(texts)} texts get other ids than by {original.judge}"
        return Check(NAME, Grade.FAILED, summary, tuple(details), figures)
    if different:
        kind = str(parts[0].metadata.get("tokenizer.ggml.model"))
        details.append(_REASONS.get(kind, "for this pre-tokenizer llama.cpp cuts words with marks or case otherwise"))
        return Check(NAME, Grade.CLOSE, f"{summary}, but for {len(different)}", tuple(details), figures)
    if unnormalized:
        details.append(f"{len(unnormalized)} texts are not in NFC; llama.cpp does not normalize, the original does")
    return Check(NAME, Grade.EXACT, summary, tuple(details), figures)


def _known(texts: Sequence[str], header: GgufHeader, original: OriginalTokenizer, model: Path) -> list[bool]:
    """Tell which texts differ by nothing but what no metadata could mend: the rest of them must be cut alike."""
    rests = [common_text(text, header) for text in texts]
    found = engine_child.tokenize(model, rests, parse_special=original.parses_special)
    without_marks = header.metadata.get("tokenizer.ggml.pre") in _WITHOUT_MARKS
    return [
        (without_marks and _has_marks_or_case(text)) or (rest != text and original.encode(rest) == ids)
        for text, rest, ids in zip(texts, rests, found, strict=True)
    ]


def _difference(text: str, wanted: Sequence[int], found: Sequence[int]) -> str:
    at = next((at for at, pair in enumerate(zip(wanted, found, strict=False)) if pair[0] != pair[1]), 0)
    shown = text if len(text) <= 40 else f"{text[:37]}..."
    return f"{shown!r}: {list(found[at : at + 6])}, expected {list(wanted[at : at + 6])} (from token {at})"


def _has_marks_or_case(text: str) -> bool:
    """Tell whether a text holds a combining mark, or a letter beyond ASCII that is upper-case."""
    kinds = [unicodedata.category(character) for character in text]
    return any(kind.startswith("M") for kind in kinds) or any(
        kind in ("Lu", "Lt") and ord(character) > 127 for kind, character in zip(kinds, text, strict=True)
    )
