"""A checkpoint's tokenizer files as the `tokenizer.*` metadata of a GGUF file.

    files.py            reads the JSON files and checks their shape
    added_tokens.py     what every tokenizer.json has in common: vocabulary, merges, added tokens
    bpe.py              byte-level BPE: tokenizer.json, or vocab.json and merges.txt   -> tokenizer model "gpt2"
    sentencepiece.py    tokenizer.model, or a tokenizer.json that keeps one as merges  -> tokenizer model "llama"
    pretokenizers.py    how text is cut before merging: the table of llama.cpp's names
    special_tokens.py   which token opens, ends, pads; whether it is added by itself
    chat_templates.py   chat templates; sampling defaults

Nothing found in the folder is run. What is written equals the output of llama.cpp's own converter; where it does not,
`tokenizer_metadata` says so.
"""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from ggufkit.checkpoints.vocabulary.bpe import ByteLevelVocabulary, read_tokenizer_json, read_vocab_and_merges
from ggufkit.checkpoints.vocabulary.chat_templates import chat_template_metadata, generation_defaults
from ggufkit.checkpoints.vocabulary.files import (
    CONVERTER_HINT,
    MOST_TOKENS,
    MetadataValue,
    TokenizerFiles,
    Typed,
    is_token_id,
)
from ggufkit.checkpoints.vocabulary.pretokenizers import adds_space_prefix
from ggufkit.checkpoints.vocabulary.sentencepiece import (
    SentencePieceVocabulary,
    read_merging,
    read_model,
    read_model_settings,
)
from ggufkit.checkpoints.vocabulary.special_tokens import special_token_metadata
from ggufkit.errors import CheckpointError

__all__ = ["MetadataValue", "Typed", "VocabularyStyle", "generation_defaults", "tokenizer_metadata"]

_ADD_SPACE_PREFIX = "tokenizer.ggml.add_space_prefix"
_ADD_BOS = "tokenizer.ggml.add_bos_token"
_EOT = "tokenizer.ggml.eot_token_id"
_CODE_LLAMA_SIZE, _CODE_LLAMA_EOT = 32016, 32010
_GRANITE_SMALL_SIZE = 49152


class VocabularyStyle(StrEnum):
    """What differs between families; the values are what an architecture's spec holds."""

    AUTO = "auto"  # tokenizer.model if there is one, else what tokenizer.json turns out to be (Qwen)
    LLAMA = "llama"  # the same, with add_prefix_space from tokenizer_config.json, and CodeLlama's and Granite's ways
    GEMMA = "gemma"  # SentencePiece only, never with a space in front
    BYTE_LEVEL = "byte-level"  # tokenizer.json only (DeepSeek)


def tokenizer_metadata(
    folder: Path, config: Mapping[str, Any], *, style: str = VocabularyStyle.AUTO
) -> dict[str, MetadataValue]:
    """Turn the tokenizer files of `folder` into metadata; `config` is its config.json, text part unwrapped.

    Values are plain: bool, int (UINT32), float (FLOAT32), str, list[str], list[float] (FLOAT32), list[int] (INT32);
    `Typed` where another GGUF type is meant.

    The metadata equals that of llama.cpp's converter for the same folder, but for these cases:

    * A tokenizer.json with a SentencePiece vocabulary and no tokenizer.model: scores follow the merges (upstream's
      are all -1000, which merges in another order), added tokens that are not named in tokenizer_config.json keep
      their type, and the vocabulary is filled up to vocab_size (upstream's file would not load).
    * add_space_prefix is also written, as false, when the files say that no space is put in front of a text but
      tokenizer_config.json does not repeat it. llama.cpp would put one.
    * An added token whose text cannot be byte spelling (`§§`) stays as it is; upstream writes replacement characters.
    * Special-token ids beyond the vocabulary are left out; llama.cpp ignores them.
    * Names of pre-tokenizers that llama.cpp treats alike are not told apart (pretokenizers.py).

    What upstream converts and llama.cpp then cuts wrongly or aborts on is refused: SentencePiece models of type
    unigram, vocabularies that cannot spell every byte, two tokens of one text, unknown pre-tokenizers.

    Where llama.cpp still cuts otherwise than the original, whatever the metadata: decomposed text (it has no NFC), a
    Metaspace pre-tokenizer before a text that begins with a space, words with combining marks under "tekken" and
    "gpt-4o", and plain tokens named like control tokens (`</s>` in Qwen's vocabulary). The tests show each.

    Raises:
        CheckpointError: no tokenizer, a malformed file, ids that clash or lie beyond the vocabulary, merges that name
            no token, or a way of cutting text that llama.cpp is not known to have.
    """
    style = VocabularyStyle(style)
    files = TokenizerFiles.read(folder)
    size = config.get("vocab_size")
    size = size if is_token_id(size) and size > 0 else None
    if size and size > MOST_TOKENS:
        raise CheckpointError(f"{folder}: config.json gives a vocab_size of {size}")

    metadata: dict[str, MetadataValue]
    match _read(files, style, size):
        case SentencePieceVocabulary() as vocabulary:
            metadata = {
                "tokenizer.ggml.model": "llama",
                "tokenizer.ggml.pre": "default",
                "tokenizer.ggml.tokens": vocabulary.tokens,
                "tokenizer.ggml.scores": vocabulary.scores,
                "tokenizer.ggml.token_type": vocabulary.types,
            }
            if not _adds_space_prefix(files, style):
                metadata[_ADD_SPACE_PREFIX] = False
        case ByteLevelVocabulary() as vocabulary:
            metadata = {
                "tokenizer.ggml.model": "gpt2",
                "tokenizer.ggml.pre": vocabulary.pretokenizer,
                "tokenizer.ggml.tokens": vocabulary.tokens,
                "tokenizer.ggml.token_type": vocabulary.types,
                "tokenizer.ggml.merges": vocabulary.merges,
            }
    _check_texts(folder, vocabulary.tokens)
    metadata |= special_token_metadata(files, config, vocabulary_size=len(vocabulary.tokens))
    metadata |= chat_template_metadata(files)
    if style is VocabularyStyle.LLAMA:
        metadata |= _llama_ways(files, size)
    return metadata


def _read(
    files: TokenizerFiles, style: VocabularyStyle, size: int | None
) -> SentencePieceVocabulary | ByteLevelVocabulary:
    if files.sentencepiece_model and style is not VocabularyStyle.BYTE_LEVEL:
        return read_model(files, files.sentencepiece_model, size)
    if files.tokenizer is not None:
        kind = files.model.get("type")
        if kind not in ("BPE", None):
            raise CheckpointError(
                f"{files.folder / 'tokenizer.json'}: a vocabulary of type {kind}, expected BPE", hint=CONVERTER_HINT
            )
        if not files.model.get("byte_fallback"):
            if style is VocabularyStyle.GEMMA:
                raise CheckpointError(f"{files.folder / 'tokenizer.json'}: byte-level BPE, expected SentencePiece")
            return read_tokenizer_json(files, size)
        if style is VocabularyStyle.BYTE_LEVEL:
            raise CheckpointError(f"{files.folder / 'tokenizer.json'}: SentencePiece, expected byte-level BPE")
        return read_merging(files, size)
    if (files.folder / "vocab.json").is_file():
        return read_vocab_and_merges(files, size)
    found = " (tekken.json is not supported)" if (files.folder / "tekken.json").is_file() else ""
    raise CheckpointError(
        f"no tokenizer in {files.folder}: expected tokenizer.json, tokenizer.model, or vocab.json and merges.txt{found}"
    )


def _adds_space_prefix(files: TokenizerFiles, style: VocabularyStyle) -> bool:
    if style is VocabularyStyle.GEMMA:
        return False
    if files.sentencepiece_model:
        return read_model_settings(files.sentencepiece_model).add_dummy_prefix
    tokens = files.model.get("vocab") or {}
    return adds_space_prefix(files.tokenizer or {}, tokens, files.folder / "tokenizer.json")


def _llama_ways(files: TokenizerFiles, size: int | None) -> dict[str, MetadataValue]:
    """What llama.cpp's converter does for the Llama family alone (conversion/llama.py, set_vocab)."""
    metadata: dict[str, MetadataValue] = {}
    add_prefix_space = (files.tokenizer_config or {}).get("add_prefix_space")
    if isinstance(add_prefix_space, bool):
        metadata[_ADD_SPACE_PREFIX] = add_prefix_space
    if size == _CODE_LLAMA_SIZE:
        metadata[_EOT] = _CODE_LLAMA_EOT
    if size == _GRANITE_SMALL_SIZE:
        metadata[_ADD_BOS] = False
    return metadata


def _check_texts(folder: Path, tokens: list[str]) -> None:
    """Refuse what llama.cpp would stop at: two tokens of one text, or a text that is not Unicode."""
    try:
        "".join(tokens).encode("utf-8")
    except UnicodeEncodeError as error:
        raise CheckpointError(f"{folder}: a token is not valid Unicode: {error.reason}") from error
    if len(set(tokens)) != len(tokens):
        seen: dict[str, int] = {}
        for token_id, text in enumerate(tokens):
            if text in seen:
                raise CheckpointError(f"{folder}: tokens {seen[text]} and {token_id} have the same text: {text!r}")
            seen[text] = token_id
