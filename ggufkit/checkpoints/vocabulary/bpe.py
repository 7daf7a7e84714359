"""Byte-level BPE vocabularies: from tokenizer.json, or from the vocab.json and merges.txt of older checkpoints."""

from collections.abc import Mapping

from ggufkit.checkpoints.vocabulary.added_tokens import (
    check_merges,
    merged_added_tokens,
    read_base_vocabulary,
    read_merges,
)
from ggufkit.checkpoints.vocabulary.files import PRE_HINT, AddedToken, TokenizerFiles, read_json_object, read_text
from ggufkit.checkpoints.vocabulary.lists import VocabularyLists, check_room
from ggufkit.checkpoints.vocabulary.special_tokens import special_names
from ggufkit.checkpoints.vocabulary.token_types import TokenType, classify_added
from ggufkit.errors import CheckpointError

# Checkpoints without tokenizer.json leave the pre-tokenizer and the end-of-text token to the class that they name.
CLASSES = {"GPT2Tokenizer": "gpt-2", "Qwen2Tokenizer": "qwen2"}
_END_OF_TEXT = "<|endoftext|>"


def read_tokenizer_json(files: TokenizerFiles, vocabulary_size: int | None) -> VocabularyLists:
    """Read the vocabulary of a tokenizer.json.

    Rows up to `vocabulary_size` that no token uses become unused [PAD…] tokens.

    Raises:
        CheckpointError: a malformed file, clashing ids, more tokens than config.json's vocab_size, or merges that
            name no token.
    """
    path = files.folder / "tokenizer.json"
    base = read_base_vocabulary(path, files.model)
    merges = read_merges(path, files.model, base)
    added = merged_added_tokens(files, base)
    return _assemble(files, base, added, merges, vocabulary_size)


def read_vocab_and_merges(files: TokenizerFiles, vocabulary_size: int | None) -> VocabularyLists:
    """Read vocab.json and merges.txt, GPT-2's way of keeping a vocabulary. Raises CheckpointError, as above."""
    path = files.folder / "vocab.json"
    base = read_base_vocabulary(path, {"vocab": read_json_object(path)})
    merges = _read_merges_txt(files)
    check_merges(files.folder / "merges.txt", merges, base)
    added = {token.text: token for token in merged_added_tokens(files, base)}
    for text in {_END_OF_TEXT, *special_names(files)} & base.keys():
        added[text] = AddedToken(base[text], text, special=True, normalized=True)
    return _assemble(files, base, list(added.values()), merges, vocabulary_size)


def _assemble(
    files: TokenizerFiles,
    base: Mapping[str, int],
    added: list[AddedToken],
    merges: list[list[str]],
    vocabulary_size: int | None,
) -> VocabularyLists:
    ids = {**base, **{token.text: token.id for token in added}}
    size = check_room(files.folder, ids, vocabulary_size)
    lists = VocabularyLists.unused("gpt2", size)
    for text, token_id in base.items():
        lists.put(token_id, text, TokenType.NORMAL)
    for token in added:
        text = token.text if token.normalized else _decoded(token.text)
        lists.put(token.id, *classify_added(text, special=token.special))
    lists.merges = [_joined(*pair) for pair in merges]
    return lists


def pretokenizer_of_class(files: TokenizerFiles) -> str:
    """Name the pre-tokenizer of a checkpoint without tokenizer.json. Raises CheckpointError for an unknown class."""
    tokenizer_class = str((files.tokenizer_config or {}).get("tokenizer_class")).removesuffix("Fast")
    if tokenizer_class not in CLASSES:
        raise CheckpointError(
            f"{files.folder}: vocab.json without tokenizer.json, and tokenizer_class {tokenizer_class!r} does not tell "
            f"how text is cut before merging (known: {', '.join(CLASSES)})",
            hint=PRE_HINT,
        )
    return CLASSES[tokenizer_class]


def _read_merges_txt(files: TokenizerFiles) -> list[list[str]]:
    path = files.folder / "merges.txt"
    if not path.is_file():
        raise CheckpointError(f"{files.folder}: vocab.json, but neither merges.txt nor tokenizer.json beside it")
    lines = read_text(path).split("\n")
    if lines and lines[0].startswith("#"):
        lines = lines[1:]
    merges: list[list[str]] = []
    for line in filter(None, map(str.strip, lines)):
        left, _, right = line.partition(" ")
        if not left or not right or " " in right:
            raise CheckpointError(f"{path}: not a pair of tokens: {line!r}")
        merges.append([left, right])
    return merges


def _joined(left: str, right: str) -> str:
    """A space inside a merge would read as the gap between its halves: write it as byte-level BPE spells spaces."""
    if " " in left or " " in right:
        left, right = left.replace(" ", "Ġ"), right.replace(" ", "Ġ")
    return f"{left} {right}"


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's alphabet: each byte as a visible character (openai/gpt-2, encoder.py, bytes_to_unicode)."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(256 + index): byte for index, byte in enumerate(hidden)}


_BYTES = _byte_alphabet()
BYTE_CHARACTERS = {byte: character for character, byte in _BYTES.items()}


def _decoded(text: str) -> str:
    """Write an added token in byte spelling (`ĠĠ`) as the text that it stands for: llama.cpp has plain text there.

    A text that is not all in the byte alphabet, or does not spell Unicode in it (`§§`), is plain already.
    """
    if all(character in _BYTES for character in text):
        try:
            return bytes(_BYTES[character] for character in text).decode("utf-8")
        except UnicodeDecodeError:
            return text
    return text
