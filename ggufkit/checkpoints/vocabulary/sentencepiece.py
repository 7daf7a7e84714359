"""SentencePiece vocabularies that merge pairs: from tokenizer.model, or from a tokenizer.json that keeps merges."""

import re
from collections.abc import Collection
from pathlib import Path

from ggufkit.checkpoints.vocabulary.added_tokens import merged_added_tokens, read_base_vocabulary, read_merges
from ggufkit.checkpoints.vocabulary.files import CONVERTER_HINT, TokenizerFiles
from ggufkit.checkpoints.vocabulary.lists import ADDED_SCORE, VocabularyLists, check_room
from ggufkit.checkpoints.vocabulary.model_proto import ModelSettings, ModelType, read_settings, user_defined
from ggufkit.checkpoints.vocabulary.token_types import TokenType, classify_added
from ggufkit.errors import CheckpointError

BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_SPACE = "▁"
_NULL, _NOT_NULL = "\0", "🐉"  # llama.cpp's strings end at a zero; its converter puts this sign there (InternLM2)


def read_model(files: TokenizerFiles, path: Path, vocabulary_size: int | None) -> VocabularyLists:
    """Read a SentencePiece model of type BPE, then the tokens that the JSON files beside it add or rename.

    Rows that no token uses, up to `vocabulary_size`, become unused [PAD…] tokens; tokens beyond it are left out, as
    in llama.cpp's converter (conversion/base.py, _create_vocab_sentencepiece).

    Raises:
        CheckpointError: not a SentencePiece model, or not one that llama.cpp can apply to every text.
    """
    model_type = read_model_settings(path).model_type
    if model_type != ModelType.BPE:
        name = ModelType(model_type).name if model_type in list(ModelType) else f"type {model_type}"
        raise CheckpointError(
            f"{path}: a SentencePiece model of type {name}; llama.cpp has none that cuts text into words or characters",
            hint=CONVERTER_HINT,
        )
    pieces, roles = load_pieces(path)
    lists = VocabularyLists.unused("llama", vocabulary_size or len(pieces), scored=True)
    lists.roles = roles
    for token_id, (text, score, kind) in enumerate(pieces[: len(lists.tokens)]):
        lists.put(token_id, text, kind, score)
    if len(pieces) > len(lists.tokens):
        lists.remarks.append(
            f"the tokenizer has {len(pieces)} tokens and the model {len(lists.tokens)} embedding rows: "
            "the tokens without a row are left out"
        )
    add_tokens(files, lists)
    _check_bytes(path, lists.tokens)
    return lists


def load_pieces(path: Path) -> tuple[list[tuple[str, float, TokenType]], dict[str, int]]:
    """Read the pieces of a SentencePiece model: text, score, type; and the ids of those that play a role.

    Raises:
        CheckpointError: it is no such file.
    """
    from sentencepiece import SentencePieceProcessor

    try:
        processor = SentencePieceProcessor(model_file=str(path))
    except (RuntimeError, OSError) as error:
        raise CheckpointError(f"{path}: not a SentencePiece model: {error}") from error
    except UnicodeDecodeError as error:  # the library's complaint quotes a piece that is not text
        raise CheckpointError(f"{path}: not a SentencePiece model: {error.object!r:.120}") from error
    kinds = (
        (processor.is_unknown, TokenType.UNKNOWN),
        (processor.is_control, TokenType.CONTROL),
        (processor.is_unused, TokenType.UNUSED),
        (processor.is_byte, TokenType.BYTE),
    )
    first = user_defined(path.read_bytes())
    # behind a token that is cut out first, llama.cpp puts the space that opens a text: a run of spaces would grow
    spaced = read_model_settings(path).add_dummy_prefix
    pieces = []
    for token_id in range(processor.vocab_size()):
        kind = next((kind for is_kind, kind in kinds if is_kind(token_id)), TokenType.NORMAL)
        try:
            text = processor.id_to_piece(token_id)
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{path}: piece {token_id} is not UTF-8: {error.object!r:.60}") from None
        if token_id in first and not (spaced and _SPACE in text):
            text, kind = classify_added(text, special=False)
        pieces.append((text, processor.get_score(token_id), kind))
    if all(text != _NOT_NULL for text, _, _ in pieces):
        pieces = [(_NOT_NULL if text == _NULL else text, score, kind) for text, score, kind in pieces]
    ids = {
        "bos": processor.bos_id(),
        "eos": processor.eos_id(),
        "unk": processor.unk_id(),
        "pad": processor.pad_id(),
    }
    return pieces, {role: token_id for role, token_id in ids.items() if token_id >= 0}


def add_tokens(files: TokenizerFiles, lists: VocabularyLists) -> None:
    """Write what added_tokens.json, tokenizer_config.json and tokenizer.json add to a SentencePiece model.

    tokenizer.json says nothing new where it is the same tokenizer in another form; what it alone adds is taken.
    """
    size = len(lists.tokens)
    for text, token_id in (files.added_tokens or {}).items():
        if token_id < size:
            lists.put(token_id, text, TokenType.USER_DEFINED)
    named = files.config_added_tokens()
    known = {token.id for token in named} | set((files.added_tokens or {}).values())
    for token in (*named, *(token for token in files.tokenizer_added_tokens() if token.id not in known)):
        if token.id < size:
            if token not in named and lists.tokens[token.id] == token.text:
                continue  # a piece of the model that tokenizer.json has to list because it is special
            text, kind = classify_added(token.text, special=token.special)
            lists.put(token.id, text, kind)


def read_model_settings(path: Path) -> ModelSettings:
    """Read what a SentencePiece model says beside its pieces. Raises CheckpointError when it is not such a file."""
    try:
        return read_settings(path.read_bytes())
    except ValueError as error:
        raise CheckpointError(f"{path}: not a SentencePiece model: {error}") from error


def read_merging(files: TokenizerFiles, vocabulary_size: int | None) -> VocabularyLists:
    """Read a tokenizer.json that holds a SentencePiece vocabulary as a list of merges, and no tokenizer.model.

    llama.cpp merges the pair whose token has the highest score, so a token's score is minus the rank of the merge
    that makes it. (Its own converter gives every token the score -1000, with which its tokenizer merges from the left
    and cuts most texts differently from the original.)

    Raises:
        CheckpointError: ids with holes or duplicates, merges that name no token, or bytes without a token.
    """
    path = files.folder / "tokenizer.json"
    base = read_base_vocabulary(path, files.model)
    added = merged_added_tokens(files, base)
    ids = {**base, **{token.text: token.id for token in added}}
    lists = VocabularyLists.unused("llama", check_room(path, ids, vocabulary_size), scored=True)

    ranks: dict[str, int] = {}
    merges = read_merges(path, files.model, base)
    for rank, (left, right) in enumerate(merges):
        ranks.setdefault(left + right, rank)
    last = len(merges)
    for text, token_id in base.items():
        kind = TokenType.BYTE if BYTE.fullmatch(text) else TokenType.NORMAL
        lists.put(token_id, text, kind, float(-ranks.get(text, last)))
    for token in added:
        text, kind = classify_added(token.text, special=token.special)
        lists.put(token.id, text, kind)
    _check_bytes(path, lists.tokens)
    return lists


def read_whole_text_merging(
    files: TokenizerFiles, vocabulary_size: int | None, *, visible: Collection[str] = ()
) -> VocabularyLists:
    """Read the same kind of tokenizer.json for llama.cpp's model "gemma4", which applies the merges themselves.

    Added tokens in `visible` are no control tokens, whatever the file says.

    Raises:
        CheckpointError: as above.
    """
    lists = read_merging(files, vocabulary_size)
    path = files.folder / "tokenizer.json"
    lists.model = "gemma4"
    lists.scores = [ADDED_SCORE] * len(lists.tokens)
    base = read_base_vocabulary(path, files.model)
    lists.merges = [" ".join(pair) for pair in read_merges(path, files.model, base)]
    for token_id, text in enumerate(lists.tokens):
        if text in visible:
            lists.types[token_id] = int(TokenType.USER_DEFINED)
    return lists


def _check_bytes(path: Path, tokens: list[str]) -> None:
    """Refuse a vocabulary that cannot spell every byte: llama.cpp aborts at the first character that it lacks."""
    known = set(tokens)
    for byte in range(256):
        if f"<0x{byte:02X}>" not in known and not (byte < 0x80 and chr(byte) in known):
            raise CheckpointError(
                f"{path}: no token for the byte <0x{byte:02X}>; llama.cpp would abort at a character that the "
                "vocabulary lacks"
            )
