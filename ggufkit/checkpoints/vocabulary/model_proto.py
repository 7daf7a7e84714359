"""The few settings of a SentencePiece model that its Python package does not tell.

A tokenizer.model is a protocol buffer (sentencepiece_model.proto): field 1 repeats the pieces, 2 is the trainer's
settings, 3 the normalizer's. Reading two numbers does not justify a dependency on protobuf.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

_TRAINER, _NORMALIZER = 2, 3
_TRAINER_MODEL_TYPE, _NORMALIZER_ADD_DUMMY_PREFIX = 3, 3


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
    add_dummy_prefix: bool = True


def read_settings(content: bytes) -> ModelSettings:
    """Find the model type and whether a space is put before a text. Raises ValueError when cut short."""
    model_type: int = ModelType.UNIGRAM
    add_dummy_prefix = True
    for number, value in _fields(content):
        if number == _TRAINER and isinstance(value, bytes):
            model_type = _last_number(value, _TRAINER_MODEL_TYPE, model_type)
        elif number == _NORMALIZER and isinstance(value, bytes):
            add_dummy_prefix = bool(_last_number(value, _NORMALIZER_ADD_DUMMY_PREFIX, int(add_dummy_prefix)))
    return ModelSettings(model_type, add_dummy_prefix)


def _last_number(message: bytes, wanted: int, default: int) -> int:
    found = default
    for number, value in _fields(message):
        if number == wanted and isinstance(value, int):
            found = value
    return found


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
