"""Token ids: given the GGUF file, llama.cpp must cut every text of a hard corpus as the original tokenizer does."""

import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ggufkit.counting import counted
from ggufkit.errors import CheckpointError, GgufkitError, MissingDependencyError
from ggufkit.evaluation import engine_child
from ggufkit.evaluation.known_differences import REASONS, common_ids, common_text
from ggufkit.evaluation.original_tokenizer import OriginalTokenizer, TokenizerMissingError, open_tokenizer
from ggufkit.evaluation.results import Check, Grade
from ggufkit.evaluation.texts import hard_texts
from ggufkit.gguf_file.reader import GgufHeader

NAME = "tokens"
_SHOWN = 5


def check_tokens(model: Path, checkpoint: Path, parts: Sequence[GgufHeader]) -> Check:
    """Compare the ids of every text; where llama.cpp is known to differ whatever the file says, say so."""
    if parts[0].metadata.get("tokenizer.ggml.model", "no_vocab") == "no_vocab":
        return Check(NAME, Grade.SKIPPED, "the file holds no vocabulary")
    try:
        original = open_tokenizer(checkpoint)
    except (MissingDependencyError, TokenizerMissingError) as error:
        return Check(NAME, Grade.SKIPPED, str(error))
    except CheckpointError as error:
        return Check(NAME, Grade.FAILED, str(error))
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
    read = f"{counted(len(texts), 'text')} ({counted(sum(map(len, wanted)), 'token')})"
    summary = f"ids of {read} equal those of {original.judge}"
    if faults:
        summary = f"{len(faults)} of {len(texts)} texts get other ids than by {original.judge}"
        return Check(NAME, Grade.FAILED, summary, tuple(details), figures)
    if different:
        kind = str(parts[0].metadata.get("tokenizer.ggml.model"))
        details.append(REASONS[kind])
        return Check(NAME, Grade.CLOSE, f"{summary}, but for {len(different)}", tuple(details), figures)
    if unnormalized:
        details.append(
            f"{counted(len(unnormalized), 'text is', 'texts are')} not in NFC; llama.cpp does not normalize,"
            " the original does"
        )
    return Check(NAME, Grade.EXACT, summary, tuple(details), figures)


def _known(texts: Sequence[str], header: GgufHeader, original: OriginalTokenizer, model: Path) -> list[bool]:
    """Tell which texts differ by nothing but what no metadata could mend: the rest of them must be cut alike."""
    rests = [common_text(text, header) for text in texts]
    found = engine_child.tokenize(model, rests, parse_special=original.parses_special)
    return [_is_known(text, rest, ids, header, original) for text, rest, ids in zip(texts, rests, found, strict=True)]


def _is_known(text: str, rest: str, ids: Sequence[int], header: GgufHeader, original: OriginalTokenizer) -> bool:
    wanted = original.encode(rest)
    common = common_ids(wanted, header)
    return (rest != text or common != wanted) and common == list(ids)


def _difference(text: str, wanted: Sequence[int], found: Sequence[int]) -> str:
    at = next((at for at, pair in enumerate(zip(wanted, found, strict=False)) if pair[0] != pair[1]), 0)
    shown = text if len(text) <= 40 else f"{text[:37]}..."
    return f"{shown!r}: {list(found[at : at + 6])}, expected {list(wanted[at : at + 6])} (from token {at})"
