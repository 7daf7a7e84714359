"""GGUF files with one or a few faults, made from good ones: of single fields, or of bytes wherever they fall."""

import random
import struct
from dataclasses import dataclass

STRING, ARRAY = 8, 9
FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
TYPES = {
    0: (1, 4),
    1: (1, 2),
    2: (32, 18),
    8: (32, 34),
    12: (256, 144),
    24: (1, 1),
    28: (1, 8),
    30: (1, 2),
    39: (32, 17),
}
KEYS = (
    "general.architecture",
    "general.name",
    "general.alignment",
    "llama.block_count",
    "llama.context_length",
    "llama.attention.head_count",
    "llama.attention.layer_norm_rms_epsilon",
    "tokenizer.ggml.model",
    "tokenizer.ggml.tokens",
    "tokenizer.ggml.scores",
    "tokenizer.ggml.token_type",
    "tokenizer.ggml.eos_token_id",
    "tokenizer.chat_template",
    "split.count",
)
NUMBERS = (0, 1, 2, 3, 4, 5, 8, 9, 13, 31, 32, 63, 64, 65, 255, 1 << 15, 1 << 16, 1 << 20, (1 << 24) + 1, 1 << 30)
NUMBERS += ((1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 61, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
TEXTS = (b"", b"\0", b"\xff\xfe", b"\xed\xa0\x80", b"\x1b[2J", b"a\nb", "é".encode(), b"x" * 63, b"x" * 64, b"x" * 300)
TEXTS += ("\u202e".encode(), "\U0001d51e".encode(), b"\xc3", b"general.alignment", b"general.architecture")


@dataclass
class Field:
    """A stretch of the file: `kind` is "number", "text", "data" or "padding"."""

    kind: str
    content: bytes


def fields(chance: random.Random) -> list[Field]:
    """Make up a good file, as a list of its fields."""
    alignment = chance.choice((32, 32, 32, 1, 8, 64, 4096))
    keys = list(KEYS) if chance.random() < 0.3 else chance.sample(KEYS, chance.randrange(len(KEYS)))
    found = [Field("text", b"GGUF"), _number("I", chance.choice((3, 3, 3, 2)))]
    tensors = [f"blk.{number}.w" for number in range(chance.randrange(6))]
    found += [_number("Q", len(tensors)), _number("Q", len(keys))]
    for key in keys:
        found += [*_text(key.encode()), *_value(chance, key, alignment)]
    if "general.alignment" not in keys:
        alignment = 32
    offset, data = 0, bytearray()
    for name in tensors:
        kind = chance.choice(list(TYPES))
        block, width = TYPES[kind]
        shape = [block * chance.randrange(1, 3), *(chance.randrange(1, 4) for _ in range(chance.randrange(3)))]
        if chance.random() < 0.05:
            shape[-1 if len(shape) > 1 else 0] = 0
        found += [*_text(name.encode()), _number("I", len(shape)), *(_number("Q", extent) for extent in shape)]
        found += [_number("I", kind), _number("Q", offset)]
        size = width
        for extent in shape:
            size *= extent
        size //= block
        data += chance.randbytes(size) + bytes(-size % alignment)
        offset = len(data)
    if tensors:
        place = sum(len(field.content) for field in found)
        found += [Field("padding", bytes(-place % alignment)), Field("data", bytes(data))]
    return found


def mutant(chance: random.Random) -> bytes:
    """Make a file with faults; now and then one without."""
    found = fields(chance)
    for _ in range(chance.choice((0, 1, 1, 1, 1, 2, 3))):
        _spoil(chance, found)
    content = bytearray(b"".join(field.content for field in found))
    if chance.random() < 0.3:
        content = _bytes_spoilt(chance, content)
    return bytes(content)


def _spoil(chance: random.Random, found: list[Field]) -> None:
    place = chance.randrange(len(found))
    field = found[place]
    fault = chance.randrange(8)
    if fault == 0:
        del found[place]
    elif fault == 1:
        found.insert(place, Field(field.kind, field.content))
    elif fault == 2 and len(found) > 1:
        other = chance.randrange(len(found))
        found[place], found[other] = found[other], field
    elif field.kind == "number":
        size = len(field.content)
        before = int.from_bytes(field.content, "little")
        number = chance.choice(
            (*NUMBERS, before + 1, before - 1, before * 2, before ^ (1 << chance.randrange(8 * size)))
        )
        field.content = (number % (1 << (8 * size))).to_bytes(size, "little")
    elif field.kind == "text":
        text = chance.choice((*TEXTS, field.content[:-1], field.content + b"x", chance.randbytes(len(field.content))))
        field.content = text
        if place and chance.random() < 0.7:  # with the length that belongs to it
            found[place - 1].content = struct.pack("<Q", len(text))
    else:
        field.content = field.content[: chance.randrange(len(field.content) + 1)]


def _bytes_spoilt(chance: random.Random, content: bytearray) -> bytearray:
    fault = chance.randrange(4)
    place = chance.randrange(len(content) + 1)
    if fault == 0:
        return content[:place]
    if fault == 1:
        return content + chance.randbytes(chance.randrange(100))
    if fault == 2:
        return content[:place] + chance.randbytes(chance.randrange(1, 9)) + content[place:]
    for _ in range(chance.randrange(1, 5)):
        if content:
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    return content


def _number(form: str, value: float) -> Field:
    return Field("number", struct.pack(f"<{form}", value))


def _text(content: bytes) -> list[Field]:
    return [_number("Q", len(content)), Field("text", content)]


def _value(chance: random.Random, key: str, alignment: int) -> list[Field]:
    if key == "general.alignment":
        return [_number("I", 4), _number("I", alignment)]
    if key == "general.architecture":
        return [_number("I", STRING), *_text(b"llama")]
    if chance.random() < 0.3:
        return [_number("I", STRING), *_text(chance.choice((b"some text", "Ünï".encode(), b"")))]
    if chance.random() < 0.5:
        kind = chance.choice(list(FORMATS))
        return [_number("I", kind), _scalar(chance, kind)]
    count = chance.randrange(6)
    kind = chance.choice((STRING, *FORMATS))
    head = [_number("I", ARRAY), _number("I", kind), _number("Q", count)]
    if kind == STRING:
        return [*head, *(part for number in range(count) for part in _text(f"t{number}".encode()))]
    return [*head, *(_scalar(chance, kind) for _ in range(count))]


def _scalar(chance: random.Random, kind: int) -> Field:
    value = chance.choice((0, 1, 2, 100)) if kind != 6 else chance.choice((0.0, 1e-5, float("nan")))
    return _number(FORMATS[kind], value)
