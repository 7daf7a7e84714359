"""The tokenizer of a converted model: from the checkpoint's folder, or from another one."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import GGUFValueType

from ggufkit.checkpoints.vocabulary import Typed, VocabularyStyle, read_vocabulary
from ggufkit.conversion.pretokenizer_search import find_pretokenizer
from ggufkit.errors import UsageError
from ggufkit.gguf_file.writer import Value
from ggufkit.llamacpp.pretokenizers import all_names, pretokenizer

_PRE = "tokenizer.ggml.pre"


@dataclass(frozen=True, slots=True)
class TokenizerOptions:
    """`folder` holds the tokenizer files; None means the checkpoint's. `pretokenizer` is llama.cpp's name, if known."""

    folder: Path | None = None
    pretokenizer: str | None = None


def vocabulary_metadata(
    checkpoint: Path,
    config: Mapping[str, Any],
    style: str = VocabularyStyle.AUTO,
    *,
    rows: int | None = None,
    options: TokenizerOptions | None = None,
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Read a checkpoint's tokenizer: its metadata, and remarks on where llama.cpp will not do quite the same.

    `rows` is how many rows the embedding has; without it config.json tells.

    Raises:
        CheckpointError: it is missing or malformed, or llama.cpp cannot cut text like it.
        MissingDependencyError: the search for the pre-tokenizer needs what is not installed.
        UsageError: `options` names a pre-tokenizer that llama.cpp does not have.
    """
    options = options or TokenizerOptions()
    if options.pretokenizer is not None:
        check_name(options.pretokenizer)
    vocabulary = read_vocabulary(
        options.folder or checkpoint,
        config,
        style=style,
        rows=rows,
        generation_folder=checkpoint,
        pretokenizer=options.pretokenizer,
        find_pretokenizer=find_pretokenizer,
        adds_bos=_adds_bos,
    )
    if options.pretokenizer is not None and vocabulary.metadata.get(_PRE) != options.pretokenizer:
        raise UsageError(
            f"--pre {options.pretokenizer}: only byte-level BPE has a pre-tokenizer, and this vocabulary is for "
            f"llama.cpp's model {vocabulary.metadata['tokenizer.ggml.model']!r}"
        )
    return {
        key: Value(value.value, GGUFValueType[value.kind]) if isinstance(value, Typed) else value
        for key, value in vocabulary.metadata.items()
    }, vocabulary.remarks


def check_name(name: str) -> None:
    """Refuse a pre-tokenizer that llama.cpp does not have. Raises UsageError."""
    names = all_names()
    if name not in names:
        import difflib

        near = difflib.get_close_matches(name, names, n=4, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else f"one of {', '.join(sorted(names))}"
        raise UsageError(f"llama.cpp has no pre-tokenizer {name!r}", hint=hint)


def _adds_bos(name: str) -> bool:
    entry = pretokenizer(name)
    return entry is not None and entry.adds_bos
