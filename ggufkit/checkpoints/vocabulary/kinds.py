"""Which kind of tokenizer a folder has, and its vocabulary."""

from pathlib import Path

from ggufkit.checkpoints.vocabulary.bpe import read_tokenizer_json, read_vocab_and_merges
from ggufkit.checkpoints.vocabulary.families import Habits, VocabularyStyle
from ggufkit.checkpoints.vocabulary.files import CONVERTER_HINT, TokenizerFiles
from ggufkit.checkpoints.vocabulary.lists import VocabularyLists
from ggufkit.checkpoints.vocabulary.model_proto import ModelType
from ggufkit.checkpoints.vocabulary.ranks import is_ranks_file, ranks_file, read_tekken, read_tiktoken
from ggufkit.checkpoints.vocabulary.sentencepiece import (
    read_merging,
    read_model,
    read_model_settings,
    read_whole_text_merging,
)
from ggufkit.checkpoints.vocabulary.unigram import read_unigram_json, read_unigram_model
from ggufkit.checkpoints.vocabulary.wordpiece import read_vocab_txt, read_wordpiece_json
from ggufkit.errors import CheckpointError

_KINDS = {
    "llama": "SentencePiece",
    "gemma4": "SentencePiece with merges",
    "gpt2": "byte-level BPE",
    "t5": "Unigram",
    "bert": "WordPiece",
}


def read_lists(files: TokenizerFiles, style: VocabularyStyle, habits: Habits, size: int | None) -> VocabularyLists:
    """Read the vocabulary that a folder has: a SentencePiece model first, as in llama.cpp's converter.

    Raises:
        CheckpointError: there is none, it is malformed, of a kind that llama.cpp does not have, or not the family's.
    """
    kind = files.model.get("type", "BPE") if files.tokenizer is not None else None
    model = files.sentencepiece_model
    if model and habits.only in (None, "llama") and not is_ranks_file(model):
        if read_model_settings(model).model_type == ModelType.UNIGRAM:
            return read_unigram_model(files, model, size)
        return read_model(files, model, size)
    path = files.folder / "tokenizer.json"
    if kind is not None:
        lists = _read_json(files, path, kind, habits, size)
    else:
        path, lists = _read_older(files, size)
    if habits.only not in (None, lists.model):
        raise CheckpointError(
            f"{path}: a vocabulary for {_KINDS[lists.model]}, but {style} models have one for {_KINDS[habits.only]}"
        )
    return lists


def _read_older(files: TokenizerFiles, size: int | None) -> tuple[Path, VocabularyLists]:
    """Read what stands for a tokenizer.json: the files that older tokenizers, or other libraries, keep."""
    if (files.folder / "vocab.json").is_file():
        return files.folder / "vocab.json", read_vocab_and_merges(files, size)
    if (files.folder / "vocab.txt").is_file():
        return files.folder / "vocab.txt", read_vocab_txt(files, size)
    if (files.folder / "tekken.json").is_file():
        return files.folder / "tekken.json", read_tekken(files, size)
    if path := ranks_file(files.folder):
        return path, read_tiktoken(files, path, size)
    raise CheckpointError(
        f"no tokenizer in {files.folder}: expected tokenizer.json, tokenizer.model, vocab.json and merges.txt, "
        "vocab.txt, tekken.json or a .tiktoken file",
        hint="--tokenizer-from DIR takes them from another folder",
    )


def _read_json(files: TokenizerFiles, path: Path, kind: object, habits: Habits, size: int | None) -> VocabularyLists:
    match kind:
        case "BPE" | None if habits.only == "gemma4":
            return read_whole_text_merging(files, size, visible=habits.visible)
        case "BPE" | None if files.model.get("byte_fallback"):
            return read_merging(files, size)
        case "BPE" | None:
            return read_tokenizer_json(files, size)
        case "Unigram":
            return read_unigram_json(files, size)
        case "WordPiece":
            return read_wordpiece_json(files, size)
    raise CheckpointError(
        f"{path}: a vocabulary of type {kind}, expected BPE, Unigram or WordPiece", hint=CONVERTER_HINT
    )
