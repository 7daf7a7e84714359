"""Finding llama.cpp's pre-tokenizer by what it does: it must cut every text of a hard corpus as the original cuts it.

A tokenizer.json whose structure is a known one needs no search. Of any other one, normalizer and pre-tokenizer are put
before a vocabulary that betrays every cut (crossing.py), and each pre-tokenizer of libllama is tried with the same one:
only equal token ids count. The one found must then give equal ids with the checkpoint's own vocabulary. What was found
is kept in the user's cache, by the content of tokenizer.json.
"""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ggufkit.checkpoints.vocabulary import Found, TokenizerFiles, VocabularyLists
from ggufkit.checkpoints.vocabulary.files import CONVERTER_HINT
from ggufkit.checkpoints.vocabulary.pretokenizers import TABLE, Row, check_normalizer, known_row, written
from ggufkit.checkpoints.vocabulary.token_types import ENDS_BY_NAME, FILLS_BY_NAME, TokenType
from ggufkit.conversion.crossing import as_lists, crossing_model, probing_texts, tokenizer_json, unreachable_tokens
from ggufkit.counting import counted
from ggufkit.errors import CheckpointError, MissingDependencyError
from ggufkit.gguf_file.writer import lay_out
from ggufkit.llamacpp.find import cache_folder
from ggufkit.llamacpp.pin import pin
from ggufkit.llamacpp.pretokenizers import PRETOKENIZERS, Pretokenizer, pretokenizer
from ggufkit.llamacpp.vocabulary import tokenize_with_each

_VERSION = 1  # of the search: to be raised when it may find something else
_SHOWN = 3
_AROUND = 12  # bytes of a text that a message shows before the place where it is cut otherwise

Ids = list[list[int]]


def find_pretokenizer(files: TokenizerFiles, lists: VocabularyLists) -> Found:
    """Name the pre-tokenizer of a byte-level tokenizer.json: by its structure where that is known, else by trying.

    Raises:
        CheckpointError: llama.cpp has none that cuts like it; the message shows the nearest and where it differs.
        MissingDependencyError: the structure is not a known one, and what the search needs is not installed.
    """
    tokenizer, path = files.tokenizer or {}, files.folder / "tokenizer.json"
    check_normalizer(tokenizer, path)
    if row := known_row(tokenizer, frozenset(lists.tokens)):
        return Found(row.name, (row.differs,) if row.differs else ())
    kept = _cache_file(path, files.tokenizer_config)
    if found := _read_cache(kept):
        return found
    try:
        found = _search(files, lists, path)
    except ImportError:
        raise MissingDependencyError(
            f"{path}: its way of cutting text is none of the known ones; to find llama.cpp's name for it, "
            "the tokenizers library is needed",
            hint="pip install tokenizers, then the same command again; or --pre NAME if you know the name",
        ) from None
    _write_cache(kept, found)
    return found


def _search(files: TokenizerFiles, lists: VocabularyLists, path: Path) -> Found:
    tokenizer = files.tokenizer or {}
    texts = probing_texts()
    model = crossing_model(texts)
    original = _open(tokenizer_json(model, tokenizer), path)
    # What the normalizer changes is not for the pre-tokenizer to answer for.
    texts = tuple(t for t in texts if original.normalizer is None or original.normalizer.normalize_str(t) == t)
    wanted = _ids(original, texts)
    if row := _like_a_known_row(model, tokenizer, texts, wanted, differing=True):
        return Found(row.name, (row.differs,) if row.differs else ())
    cuts = list(dict.fromkeys(entry.cut for entry in PRETOKENIZERS))
    answers = dict(zip(cuts, _try(as_lists(model), cuts, texts), strict=True))
    same = [cut for cut in cuts if answers[cut] == wanted]
    if not same and (row := _like_a_known_row(model, tokenizer, texts, wanted, differing=False)):
        return Found(row.name, _prove(files, lists, path, row.name, texts))
    if not same:
        nearest = min(cuts, key=lambda cut: _count(wanted, answers[cut]))
        raise _refusal(path, tokenizer, nearest, _differences(model, texts, wanted, answers[nearest]))
    entry = _with_flags(same, files)
    if entry.ignore_merges != bool(files.model.get("ignore_merges")) and (words := unreachable_tokens(files.model)):
        raise CheckpointError(
            f"{path}: it cuts text as llama.cpp's {entry.names[0]}, but `ignore_merges` is "
            f"{str(not entry.ignore_merges).lower()}, which matters to "
            f"{counted(len(words), 'token')} such as {min(words)!r}",
            hint=f"--pre {entry.names[0]} if you accept that; or {CONVERTER_HINT}",
        )
    remarks = _prove(files, lists, path, entry.names[0], texts)
    return Found(entry.names[0], remarks)


def _like_a_known_row(
    model: Mapping[str, Any], tokenizer: Mapping[str, Any], texts: Sequence[str], wanted: Ids, *, differing: bool
) -> Row | None:
    """Find a known structure that cuts exactly alike: one that llama.cpp follows with known differences, or another.

    Of the others, llama.cpp cuts some otherwise only where no token of their vocabularies reaches across (falcon).
    """
    ignore_merges = bool((tokenizer.get("model") or {}).get("ignore_merges"))
    for row in TABLE:
        if bool(row.differs) is differing and not row.marker and ignore_merges in row.ignore_merges:
            known = _open(tokenizer_json(model, {"pre_tokenizer": row.pre_tokenizer()}), Path(row.model))
            if _ids(known, texts) == wanted:
                return row
    return None


def _with_flags(cuts: Sequence[str], files: TokenizerFiles) -> Pretokenizer:
    """Choose among those that cut alike: first by `ignore_merges`, then by what they do to spaces at output."""
    ignore_merges = bool(files.model.get("ignore_merges"))
    cleans = (files.tokenizer_config or {}).get("clean_up_tokenization_spaces")
    entries = [entry for entry in PRETOKENIZERS if entry.cut in cuts]
    return min(
        entries,
        key=lambda entry: (
            entry.ignore_merges != ignore_merges,
            isinstance(cleans, bool) and entry.cleans_spaces != cleans,
        ),
    )


def _prove(
    files: TokenizerFiles, lists: VocabularyLists, path: Path, name: str, texts: Sequence[str]
) -> tuple[str, ...]:
    """Compare the ids that the checkpoint's own vocabulary gives; return remarks on what was left out."""
    original = _open(path.read_text(encoding="utf-8"), path)
    plain = {text for text, kind in zip(lists.tokens, lists.types, strict=True) if kind == TokenType.NORMAL}
    by_name = plain & (ENDS_BY_NAME | FILLS_BY_NAME)
    entries = (files.tokenizer or {}).get("added_tokens") or []
    picky = {e["content"] for e in entries if e.get("lstrip") or e.get("rstrip") or e.get("single_word")}
    texts = [text for text in texts if not any(token in text for token in by_name | picky)]
    wanted = _ids(original, texts)
    (found,) = _try(lists, [name], texts)
    if found != wanted:
        differing = [text for text, a, b in zip(texts, wanted, found or [], strict=False) if a != b]
        shown = "; ".join(repr(text[:40]) for text in differing[:_SHOWN]) or "llama.cpp died of it"
        raise CheckpointError(
            f"{path}: it cuts text as llama.cpp's {name}, but {len(differing)} of {len(texts)} texts get other token "
            f"ids: {shown}",
            hint=f"--pre {name} if you accept that; or {CONVERTER_HINT}",
        )
    if not by_name:
        return ()
    return (f"llama.cpp takes these ordinary tokens for control tokens, by their text: {', '.join(sorted(by_name))}",)


def _open(content: str, path: Path) -> Any:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_str(content)
    except Exception as error:  # the library raises plain Exception for whatever it does not take
        raise CheckpointError(f"{path}: the tokenizers library does not take it: {error}") from error


def _ids(tokenizer: Any, texts: Sequence[str]) -> Ids:
    return [encoding.ids for encoding in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]


def _try(lists: VocabularyLists, names: Sequence[str], texts: Sequence[str]) -> list[Ids | None]:
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "vocabulary.gguf"
        model.write_bytes(lay_out("llama", {**lists.metadata(), "tokenizer.ggml.pre": names[0]}, []).header)
        return tokenize_with_each(model, names, texts)


def _count(wanted: Ids, found: Ids | None) -> int:
    return len(wanted) + 1 if found is None else sum(a != b for a, b in zip(wanted, found, strict=True))


def _differences(model: Mapping[str, Any], texts: Sequence[str], wanted: Ids, found: Ids | None) -> list[str]:
    """Quote each text from shortly before the place where it is first cut otherwise."""
    sizes = {token_id: len(text) for text, token_id in model["vocab"].items()}  # one character for each byte
    quoted = []
    for text, ours, theirs in zip(texts, wanted, found or [], strict=False):
        same = next((at for at, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), None)
        if same is not None:
            start = sum(sizes[token_id] for token_id in ours[:same])
            content = text.encode("utf-8")
            excerpt = content[max(0, start - _AROUND) : start + sizes[ours[same]] + _AROUND]
            quoted.append(repr(excerpt.decode("utf-8", "ignore")))
    return quoted


def _refusal(path: Path, tokenizer: Mapping[str, Any], nearest: str, differences: Sequence[str]) -> CheckpointError:
    return CheckpointError(
        f"{path}: llama.cpp has no pre-tokenizer that cuts text like this one: {written(tokenizer)}; the nearest is "
        f"{nearest}, which cuts {len(differences)} texts otherwise, first at {', '.join(differences[:_SHOWN])}",
        hint=f"--pre {nearest} if you accept that; or {CONVERTER_HINT}",
    )


def _cache_file(path: Path, tokenizer_config: Mapping[str, Any] | None) -> Path:
    cleans = (tokenizer_config or {}).get("clean_up_tokenization_spaces")
    digest = hashlib.sha256(path.read_bytes())
    digest.update(json.dumps([_VERSION, pin().version, cleans, probing_texts()]).encode())
    return cache_folder() / "pretokenizers" / f"{digest.hexdigest()}.json"


def _read_cache(path: Path) -> Found | None:
    try:
        content = json.loads(path.read_bytes())
        name, remarks = content["name"], tuple(map(str, content["remarks"]))
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return None
    return Found(name, remarks) if isinstance(name, str) and pretokenizer(name) else None


def _write_cache(path: Path, found: Found) -> None:
    with contextlib.suppress(OSError):  # a cache that cannot be written costs time, nothing else
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps({"name": found.name, "remarks": found.remarks}), encoding="utf-8")
        temporary.replace(path)
