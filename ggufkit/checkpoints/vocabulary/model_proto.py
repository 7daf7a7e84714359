"""The settings of a SentencePiece model that its Python package does not tell.

A tokenizer.model is a protocol buffer (sentencepiece_model.proto): field 1 repeats the pieces, 2 is the trainer's
settings, 3 the normalizer's. Reading a few numbers does not justify a dependency on protobuf.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

_PIECE, _TRAINER, _NORMALIZER = 1, 2, 3
_PIECE_TYPE, _USER_DEFINED = 3, 4
_TRAINER_MODEL_TYPE, _TRAINER_SPACE_AS_SUFFIX, _TRAINER_BYTE_FALLBACK = 3, 24, 35
_NORMALIZER_CHARSMAP, _NORMALIZER_ADD_DUMMY_PREFIX, _NORMALIZER_REMOVE_EXTRA_WHITESPACES = 2, 3, 4


class ModelType(IntEnum):
    """How a SentencePiece model cuts text (TrainerSpec.ModelType)."""

    UNIGRAM = 1
    BPE = 2
    WORD = 3
    CHAR = 4


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """What the file says beside its pieces; the defaults are those of sentencepiece_model.proto."""

    model_type: int = ModelType.UNIGRAM
    space_as_suffix: bool = False
    byte_fallback: bool = False
    precompiled_charsmap: bytes = b""
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True
    splits_at_whitespace: bool = False  # only a tokenizer.json can say so


def read_settings(content: bytes) -> ModelSettings:
    """Find the settings. Raises ValueError when the content is cut short or no such message."""
    trainer: dict[int, int | bytes] = {}
    normalizer: dict[int, int | bytes] = {}
    for number, value in _fields(content):
        if number == _TRAINER and isinstance(value, bytes):
            trainer |= dict(_fields(value))
        elif number == _NORMALIZER and isinstance(value, bytes):
            normalizer |= dict(_fields(value))
    charsmap = normalizer.get(_NORMALIZER_CHARSMAP, b"")
    return ModelSettings(
        _number(trainer, _TRAINER_MODEL_TYPE, ModelType.UNIGRAM),
        bool(_number(trainer, _TRAINER_SPACE_AS_SUFFIX, 0)),
        bool(_number(trainer, _TRAINER_BYTE_FALLBACK, 0)),
        charsmap if isinstance(charsmap, bytes) else b"",
        bool(_number(normalizer, _NORMALIZER_ADD_DUMMY_PREFIX, 1)),
        bool(_number(normalizer, _NORMALIZER_REMOVE_EXTRA_WHITESPACES, 1)),
    )


def user_defined(content: bytes) -> set[int]:
    """Find the pieces that are cut out of a text before all others, by their ids. Raises as `read_settings`."""
    pieces = (value for number, value in _fields(content) if number == _PIECE and isinstance(value, bytes))
    mark = bytes((_PIECE_TYPE << 3, _USER_DEFINED))  # looked for first: a vocabulary has up to a million pieces
    return {
        place
        for place, piece in enumerate(pieces)
        if mark in piece and dict(_fields(piece)).get(_PIECE_TYPE) == _USER_DEFINED
    }


def _number(message: dict[int, int | bytes], wanted: int, default: int) -> int:
    value = message.get(wanted, default)
    return value if isinstance(value, int) else default


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Walk through a message: (field number, number or bytes). Wire types: 0 varint, 1 and 5 fixed, 2 with a length."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == 0:
            value, position = _varint(message, position)
            yield number, value
            continue
        if wire_type == 2:
            length, position = _varint(message, position)
        elif wire_type in (1, 5):
            length = 8 if wire_type == 1 else 4
        else:
            raise ValueError(f"unknown wire type {wire_type} at byte {position}")
        end = position + length
        if end > len(message):
            raise ValueError(f"cut short at byte {len(message)}")
        yield number, message[position:end]
        position = end


def _varint(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(message) and shift < 64:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise ValueError(f"cut short at byte {position}")
