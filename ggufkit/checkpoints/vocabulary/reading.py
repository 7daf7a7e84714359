"""From a folder to its vocabulary: which kind it is, and what the family makes of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from ggufkit.checkpoints.vocabulary.bpe import pretokenizer_of_class
from ggufkit.checkpoints.vocabulary.chat_templates import chat_template_metadata
from ggufkit.checkpoints.vocabulary.ends import end_metadata
from ggufkit.checkpoints.vocabulary.families import HABITS, Habits, VocabularyStyle
from ggufkit.checkpoints.vocabulary.files import (
    CONVERTER_HINT,
    MOST_TOKENS,
    PRE_HINT,
    MetadataValue,
    TokenizerFiles,
    is_token_id,
)
from ggufkit.checkpoints.vocabulary.kinds import read_lists
from ggufkit.checkpoints.vocabulary.lists import VocabularyLists
from ggufkit.checkpoints.vocabulary.pretokenizers import adds_space_prefix, check_normalizer, known_row, written
from ggufkit.checkpoints.vocabulary.ranks import is_ranks_file, pretokenizer_of_ranks
from ggufkit.checkpoints.vocabulary.sentencepiece import read_model_settings
from ggufkit.checkpoints.vocabulary.special_tokens import ID_KEYS, special_token_metadata
from ggufkit.checkpoints.vocabulary.wordpiece import bert_roles
from ggufkit.errors import CheckpointError

_PRE = "tokenizer.ggml.pre"
_ADD_SPACE_PREFIX = "tokenizer.ggml.add_space_prefix"
_ADD_BOS, _ADD_EOS = "tokenizer.ggml.add_bos_token", "tokenizer.ggml.add_eos_token"
_EOT = "tokenizer.ggml.eot_token_id"
_SEGMENTS = "tokenizer.ggml.token_type_count"
_CODE_LLAMA_SIZE, _CODE_LLAMA_EOT = 32016, 32010
_GRANITE_SMALL_SIZE = 49152


# The ids that llama.cpp takes where a file names none (llama-vocab.cpp, llama_vocab::impl::load).
_DEFAULT_ROLES: Mapping[str, Mapping[str, int]] = {
    "llama": {"bos": 1, "eos": 2, "unk": 0},
    "t5": {"eos": 1, "unk": 2, "pad": 0},
    "gpt2": {"bos": 11, "eos": 11, "unk": -1, "pad": -1},  # -1: it takes none
}


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What becomes of a checkpoint's tokenizer, and remarks on where llama.cpp will not do quite the same."""

    metadata: dict[str, MetadataValue]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """llama.cpp's name for a pre-tokenizer, and remarks on how it differs."""

    name: str
    remarks: tuple[str, ...] = ()


PretokenizerFinder: TypeAlias = Callable[[TokenizerFiles, VocabularyLists], Found]
"""Finds the pre-tokenizer of a byte-level vocabulary; raises CheckpointError when llama.cpp has none like it."""


def find_in_table(files: TokenizerFiles, lists: VocabularyLists) -> Found:
    """Look up the structure of tokenizer.json among the known ones. Raises CheckpointError when it is not there."""
    path, tokenizer = files.folder / "tokenizer.json", files.tokenizer or {}
    check_normalizer(tokenizer, path)
    row = known_row(tokenizer, frozenset(lists.tokens))
    if row is None:
        raise CheckpointError(
            f"{path}: no pre-tokenizer of llama.cpp is known to cut text like this one: {written(tokenizer)}",
            hint=f"{PRE_HINT}; {CONVERTER_HINT}",
        )
    return Found(row.name, (row.differs,) if row.differs else ())


def read_vocabulary(
    folder: Path,
    config: Mapping[str, Any],
    *,
    style: str = VocabularyStyle.AUTO,
    rows: int | None = None,
    generation_folder: Path | None = None,
    pretokenizer: str | None = None,
    find_pretokenizer: PretokenizerFinder = find_in_table,
    adds_bos: Callable[[str], bool] = lambda _: False,
) -> Vocabulary:
    """Turn the tokenizer files of `folder` into metadata; `config` is its config.json, text part unwrapped.

    `rows` is how many rows the embedding has: it wins over config.json's vocab_size. generation_config.json is read in
    `generation_folder`, if that is another one. `pretokenizer` is the caller's name for how a byte-level tokenizer cuts
    text; without it `find_pretokenizer` finds one. `adds_bos` tells whether llama.cpp opens a text by itself under a
    pre-tokenizer's name.

    Values are plain: bool, int (UINT32), float (FLOAT32), str, bytes (array of UINT8), list[str], list[float]
    (FLOAT32), list[int] (INT32); `Typed` where another GGUF type is meant.

    The metadata equals that of llama.cpp's converter for the same folder, but for these cases:

    * A tokenizer.json with a SentencePiece vocabulary and no tokenizer.model: scores follow the merges (upstream's
      are all -1000, which merges in another order), added tokens that are not named in tokenizer_config.json keep
      their type, and the vocabulary is filled up to vocab_size (upstream's file would not load).
    * add_space_prefix is also written, as false, when the files say that no space is put in front of a text but
      tokenizer_config.json does not repeat it. llama.cpp would put one.
    * An added token whose text cannot be byte spelling (`§§`) stays as it is; upstream writes replacement characters.
    * Tokens that are added to a unigram or WordPiece vocabulary keep their text and get their type; upstream leaves
      their rows unused, or spells them so that no text matches.
    * remove_extra_whitespaces of a unigram tokenizer.json follows its normalizer and pre-tokenizer; upstream copies
      clean_up_tokenization_spaces, which is about output.
    * SentencePiece models of type unigram become "t5" in every family; upstream writes "llama" for decoders, which
      cuts text otherwise.
    * chat_template.jinja wins over tokenizer_config.json, as in transformers.
    * add_bos_token is also written, as false, where the files add no token and llama.cpp would, by the pre-tokenizer.
    * Tokens that generation_config.json or config.json say to stop at, and at which llama.cpp would not, become
      eos, eot or eom, whichever is free. Where no file names an end, a control token that says so by its text becomes
      eos: llama.cpp would take the token of id 11.
    * Special-token ids beyond the vocabulary are left out; llama.cpp ignores them.
    * Names of pre-tokenizers that llama.cpp treats alike are not told apart (pretokenizers.py).

    What upstream converts and llama.cpp then cuts wrongly or aborts on is refused: vocabularies for merging that
    cannot spell every byte, two tokens of one text, unknown pre-tokenizers.

    Where llama.cpp still cuts otherwise than the original, whatever the metadata: decomposed text (it has no NFC), a
    Metaspace pre-tokenizer before a text that begins with a space, words with combining marks under "tekken" and
    "gpt-4o", and plain tokens named like control tokens (`</s>` in Qwen's vocabulary). The tests show each.

    Raises:
        CheckpointError: no tokenizer, a malformed file, ids that clash or lie beyond the vocabulary, merges that name
            no token, or a way of cutting text that llama.cpp is not known to have.
    """
    style = VocabularyStyle(style)
    habits = HABITS[style]
    files = TokenizerFiles.read(folder)
    size = _rows(folder, config, habits)
    lists = read_lists(files, style, habits, size if rows is None else rows)
    remarks = [*_mismatch(rows, config), *lists.remarks]
    _check_texts(folder, lists.tokens)
    metadata = lists.metadata()
    if lists.model == "gpt2":
        found = Found(pretokenizer) if pretokenizer else _pretokenizer(files, lists, find_pretokenizer)
        metadata[_PRE] = found.name if pretokenizer else habits.aliases.get(found.name, found.name)
        remarks += found.remarks
    elif lists.model != "gemma4":
        metadata[_PRE] = "default"
    if lists.model in ("llama", "gemma4") and not _adds_space_prefix(files, habits):
        metadata[_ADD_SPACE_PREFIX] = False
    metadata |= special_token_metadata(files, config, vocabulary_size=len(lists.tokens), adds=habits.adds)
    if lists.model == "bert":
        metadata = bert_roles(files, lists) | metadata
    _apply_roles(metadata, habits, lists)
    if lists.model == "t5" and not habits.encoder:
        metadata = {_ADD_BOS: ID_KEYS["bos"] in metadata, _ADD_EOS: False} | metadata
    if files.tokenizer is not None and adds_bos(str(metadata.get(_PRE))):
        metadata.setdefault(_ADD_BOS, False)
    if not habits.encoder:
        ends, end_remarks = end_metadata(generation_folder or folder, config, lists, metadata)
        metadata |= ends
        remarks += end_remarks
    metadata |= chat_template_metadata(files)
    metadata |= _further_habits(files, config, style, habits, size)
    return Vocabulary(metadata, tuple(remarks))


def _rows(folder: Path, config: Mapping[str, Any], habits: Habits) -> int | None:
    """Tell how many rows the embedding has, by config.json."""
    size = config.get("padded_vocab_size", config.get("vocab_size"))
    if not is_token_id(size) or size <= 0:
        return None
    if size > MOST_TOKENS:
        raise CheckpointError(f"{folder}: config.json gives a vocab_size of {size}")
    return -(-size // habits.row_multiple) * habits.row_multiple


def _mismatch(rows: int | None, config: Mapping[str, Any]) -> tuple[str, ...]:
    size = config.get("padded_vocab_size", config.get("vocab_size"))
    if rows is None or not is_token_id(size) or size == rows:
        return ()
    return (f"config.json gives a vocab_size of {size}, but the embedding has {rows} rows: the vocabulary gets {rows}",)


def _pretokenizer(files: TokenizerFiles, lists: VocabularyLists, find: PretokenizerFinder) -> Found:
    if files.tokenizer is not None:
        return find(files, lists)
    if lists.pretokenizer is not None:
        return Found(lists.pretokenizer)
    if (files.folder / "vocab.json").is_file():
        return Found(pretokenizer_of_class(files))
    return Found(pretokenizer_of_ranks(files))


def _adds_space_prefix(files: TokenizerFiles, habits: Habits) -> bool:
    if habits.space_prefix is not None:
        return habits.space_prefix
    model = files.sentencepiece_model
    if model and not is_ranks_file(model):
        return read_model_settings(model).add_dummy_prefix
    tokens = files.model.get("vocab") or {}
    return adds_space_prefix(files.tokenizer or {}, tokens, files.folder / "tokenizer.json")


def _apply_roles(metadata: dict[str, MetadataValue], habits: Habits, lists: VocabularyLists) -> None:
    """Fill in roles: as the vocabulary tells where llama.cpp would guess another, then as the family is used to."""
    defaults = _DEFAULT_ROLES.get(lists.model, {})
    for role, token_id in lists.roles.items():
        if role in defaults and defaults[role] != token_id < len(lists.tokens):
            metadata.setdefault(ID_KEYS[role], token_id)
    if not habits.roles and not habits.fallback_roles:
        return
    ids = {text: token_id for token_id, text in enumerate(lists.tokens)}
    for role, text in habits.fallback_roles.items():
        if text in ids:
            metadata.setdefault(ID_KEYS[role], ids[text])
    for role, text in habits.roles.items():
        if text in ids:
            metadata[ID_KEYS[role]] = ids[text]


def _further_habits(
    files: TokenizerFiles, config: Mapping[str, Any], style: VocabularyStyle, habits: Habits, size: int | None
) -> dict[str, MetadataValue]:
    metadata: dict[str, MetadataValue] = {}
    add_prefix_space = (files.tokenizer_config or {}).get("add_prefix_space")
    if habits.reads_add_prefix_space and isinstance(add_prefix_space, bool):
        metadata[_ADD_SPACE_PREFIX] = add_prefix_space
    if habits.segments:
        segments = config.get("type_vocab_size", 1)
        if not is_token_id(segments) or not 0 <= segments < 2**31:
            raise CheckpointError(f"{files.folder}: config.json gives a type_vocab_size of {segments!r}")
        metadata[_SEGMENTS] = segments
    if style is VocabularyStyle.GEMMA_4:
        metadata[_ADD_BOS] = True
    if style is VocabularyStyle.NEMOTRON:
        metadata |= {ID_KEYS["pad"]: 0, ID_KEYS["unk"]: 1}
    if style is VocabularyStyle.LLAMA:
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
