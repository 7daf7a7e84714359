"""Models that are wrong in one way each: a GGUF file taken apart, one thing changed, and put together again.

Whatever a fault does to the bytes, the container stays as the format wants it: these are lies about a model, which a
reader of the format alone cannot see.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np

U8, I8, U16, I16, U32, I32, F32, BOOL, STR, ARR, U64, I64, F64 = range(13)
_FORMATS = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "?", U64: "Q", I64: "q", F64: "d"}
_BLOCKS = {int(kind): sizes for kind, sizes in gguf.GGML_QUANT_SIZES.items()}


@dataclass
class Values:
    """An array of metadata: the kind of its elements and them."""

    kind: int
    items: list[Any]


@dataclass
class Weights:
    """A tensor: its shape as in the file (the contiguous axis first), its type's number, its bytes."""

    shape: tuple[int, ...]
    kind: int
    data: bytes


@dataclass
class Model:
    """A GGUF file in memory; `entries` are (kind, value) by key."""

    entries: dict[str, tuple[int, Any]] = field(default_factory=dict)
    tensors: dict[str, Weights] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> "Model":
        reader = gguf.GGUFReader(path)
        model = cls()
        for key, entry in reader.fields.items():
            if key.startswith("GGUF."):
                continue
            kind = int(entry.types[0])
            value = entry.contents()
            model.entries[key] = (kind, Values(int(entry.types[-1]), value) if kind == ARR else value)
        for tensor in reader.tensors:
            shape = tuple(int(extent) for extent in tensor.shape)
            model.tensors[tensor.name] = Weights(shape, int(tensor.tensor_type), tensor.data.tobytes())
        return model

    def copy(self) -> "Model":
        entries = {
            key: (kind, Values(value.kind, list(value.items)) if isinstance(value, Values) else value)
            for key, (kind, value) in self.entries.items()
        }
        return Model(entries, {name: Weights(w.shape, w.kind, w.data) for name, w in self.tensors.items()})

    def write(self, path: Path, *, alignment: int = 32) -> Path:
        out = [b"GGUF", struct.pack("<IQQ", 3, len(self.tensors), len(self.entries))]
        for key, (kind, value) in self.entries.items():
            out.append(_string(key) + struct.pack("<I", kind) + _value(kind, value))
        offset = 0
        for name, tensor in self.tensors.items():
            shape = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
            out.append(_string(name) + shape + struct.pack("<IQ", tensor.kind, offset))
            offset += -(-len(tensor.data) // alignment) * alignment
        head = b"".join(out)
        with path.open("wb") as file:
            file.write(head + bytes(-len(head) % alignment))
            for tensor in self.tensors.values():
                file.write(tensor.data + bytes(-len(tensor.data) % alignment))
        return path


def _string(text: str) -> bytes:
    content = text.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(content)) + content


def _value(kind: int, value: Any) -> bytes:
    if kind == STR:
        return _string(value)
    if kind == ARR:
        items = value.items
        if value.kind == STR:
            content = b"".join(map(_string, items))
        else:
            content = struct.pack(f"<{len(items)}{_FORMATS[value.kind]}", *items)
        return struct.pack("<IQ", value.kind, len(items)) + content
    return struct.pack("<" + _FORMATS[kind], value)


Fault = Callable[[Model], None]


def _set(key: str, kind: int, value: Any) -> Fault:
    def change(model: Model) -> None:
        model.entries[key] = (kind, value)

    return change


def _drop(key: str) -> Fault:
    def change(model: Model) -> None:
        del model.entries[key]

    return change


def _items(key: str, change: Callable[[list[Any]], list[Any]], kind: int | None = None) -> Fault:
    def changed(model: Model) -> None:
        _, values = model.entries[key]
        model.entries[key] = (ARR, Values(values.kind if kind is None else kind, change(list(values.items))))

    return changed


def _no_tensor(name: str) -> Fault:
    def change(model: Model) -> None:
        del model.tensors[name]

    return change


def _shape(name: str, change: Callable[[tuple[int, ...]], tuple[int, ...]]) -> Fault:
    """Give a tensor another shape, with as many bytes as that needs."""

    def changed(model: Model) -> None:
        tensor = model.tensors[name]
        tensor.shape = change(tensor.shape)
        tensor.data = _filled(tensor.shape, tensor.kind, tensor.data)

    return changed


def _type(name: str, kind: int) -> Fault:
    """Give a tensor another type, with as many bytes as that needs."""

    def changed(model: Model) -> None:
        tensor = model.tensors[name]
        tensor.kind = kind
        tensor.data = _filled(tensor.shape, kind, tensor.data)

    return changed


def _types(kind: int, *, matrices: bool) -> Fault:
    def changed(model: Model) -> None:
        for name, tensor in model.tensors.items():
            if (len(tensor.shape) > 1) is matrices:
                _type(name, kind)(model)

    return changed


def _filled(shape: tuple[int, ...], kind: int, data: bytes) -> bytes:
    block, width = _BLOCKS[kind]
    elements = int(np.prod(shape, dtype=object)) if shape else 1
    size = elements // block * width
    return (data * (size // max(1, len(data)) + 1))[:size]


def _weights(name: str, value: float) -> Fault:
    def changed(model: Model) -> None:
        tensor = model.tensors[name]
        dtype = {0: "<f4", 1: "<f2"}[tensor.kind]
        tensor.data = np.full(len(tensor.data) // np.dtype(dtype).itemsize, value, dtype).tobytes()

    return changed


def _all_weights(value: float) -> Fault:
    def changed(model: Model) -> None:
        for name, tensor in model.tensors.items():
            if tensor.kind in {0, 1}:
                _weights(name, value)(model)

    return changed


def _extra(name: str, shape: tuple[int, ...], kind: int = 0) -> Fault:
    def changed(model: Model) -> None:
        model.tensors[name] = Weights(shape, kind, _filled(shape, kind, bytes(64)))

    return changed


def _also(*faults: Fault) -> Fault:
    def change(model: Model) -> None:
        for fault in faults:
            fault(model)

    return change


def _renamed(before: str, after: str) -> Fault:
    def change(model: Model) -> None:
        model.tensors = {(after if name == before else name): tensor for name, tensor in model.tensors.items()}

    return change


def _doubled(items: list[Any]) -> list[Any]:
    return [*items[:-1], items[0]]


TOKENS, TYPES, SCORES, MERGES = (f"tokenizer.ggml.{name}" for name in ("tokens", "token_type", "scores", "merges"))
NAN, INF = float("nan"), float("inf")


def metadata_faults(arch: str) -> dict[str, Fault]:
    """Lies of the keys that say how a model is built; `arch` is what its general.architecture says."""
    faults: dict[str, Fault] = {
        "architecture gone": _drop("general.architecture"),
        "architecture empty": _set("general.architecture", STR, ""),
        "architecture unknown": _set("general.architecture", STR, "lama"),
        "architecture a number": _set("general.architecture", U32, 7),
        "architecture a list": _set("general.architecture", ARR, Values(STR, [arch])),
        "architecture another": _set("general.architecture", STR, "bert"),
        "architecture clip": _set("general.architecture", STR, "clip"),
        "architecture with a control byte": _set("general.architecture", STR, "\x1b[2J"),
        "alignment a string": _set("general.name", ARR, Values(STR, ["a", "b"])),
        "name of a megabyte": _set("general.name", STR, "n" * (1 << 20)),
        "name not UTF-8": _set("general.name", STR, "\udcff\udcfe"),
        "file type unknown": _set("general.file_type", U32, 4000),
        "file type a string": _set("general.file_type", STR, "Q4_K_M"),
        "split count alone": _set("split.count", U16, 3),
        "split count a string": _set("split.count", STR, "3"),
        "split count 65535": _set("split.count", U16, 65535),
    }
    numbers = {
        "block_count": (0, 1, 3, 513, 10**6, 2**32 - 1),
        "context_length": (0, 1, 2**32 - 1),
        "embedding_length": (0, 1, 255, 257, 2**31, 2**32 - 1),
        "feed_forward_length": (0, 1, 767, 2**32 - 1),
        "attention.head_count": (0, 1, 3, 5, 257, 2**31, 2**32 - 1),
        "attention.head_count_kv": (0, 1, 3, 5, 8, 2**31, 2**32 - 1),
        "attention.key_length": (0, 1, 63, 65, 128, 2**32 - 1),
        "attention.value_length": (0, 1, 63, 128, 2**32 - 1),
        "attention.sliding_window": (0, 1, 2**32 - 1),
        "rope.dimension_count": (0, 1, 2, 63, 65, 128, 2**32 - 1),
        "expert_count": (1, 4, 1025, 2**32 - 1),
        "expert_used_count": (1, 4, 2**32 - 1),
        "expert_group_count": (1, 4),
        "vocab_size": (0, 1, 2**32 - 1),
        "rope.scaling.original_context_length": (0, 2**32 - 1),
        "nextn_predict_layers": (1, 5, 2**32 - 1),
        "pooling_type": (1, 77),
        "leading_dense_block_count": (2, 2**32 - 1),
    }
    for name, values in numbers.items():
        for value in values:
            faults[f"{name} {value}"] = _set(f"{arch}.{name}", U32, value)
    wanted = ("block_count", "context_length", "embedding_length", "feed_forward_length", "attention.head_count")
    for name in (*wanted, "attention.head_count_kv", "attention.layer_norm_rms_epsilon", "rope.freq_base"):
        key = f"{arch}.{name}"
        faults |= {
            f"{name} gone": _drop(key),
            f"{name} a string": _set(key, STR, "4"),
            f"{name} a float": _set(key, F32, 4.0),
            f"{name} signed": _set(key, I32, -4),
            f"{name} of 64 bits": _set(key, U64, 4),
            f"{name} a bool": _set(key, BOOL, True),
            f"{name} an empty list": _set(key, ARR, Values(U32, [])),
            f"{name} a short list": _set(key, ARR, Values(U32, [4])),
            f"{name} a list of strings": _set(key, ARR, Values(STR, ["4"] * 4)),
            f"{name} a list of floats": _set(key, ARR, Values(F32, [4.0] * 4)),
            f"{name} a list of zeros": _set(key, ARR, Values(U32, [0] * 4)),
            f"{name} a list of 600": _set(key, ARR, Values(U32, [4] * 600)),
        }
    for name in ("attention.layer_norm_rms_epsilon", "rope.freq_base", "rope.scaling.factor", "rope.scale_linear"):
        for value in (NAN, INF, -INF, -1.0, 0.0, 1e38):
            faults[f"{name} {value}"] = _set(f"{arch}.{name}", F32, value)
    for value in ("", "wrong", "yarn", "longrope", "\0"):
        faults[f"rope scaling {value!r}"] = _set(f"{arch}.rope.scaling.type", STR, value)
    for name in ("attention.clamp_kqv", "attention.max_alibi_bias", "logit_scale", "attn_logit_softcapping"):
        faults[f"{name} NaN"] = _set(f"{arch}.{name}", F32, NAN)
    faults["causal a number"] = _set(f"{arch}.attention.causal", U32, 7)
    faults["not causal"] = _set(f"{arch}.attention.causal", BOOL, False)
    return faults


def vocabulary_faults() -> dict[str, Fault]:
    """Lies about the vocabulary."""
    faults: dict[str, Fault] = {
        "no tokenizer": _drop("tokenizer.ggml.model"),
        "tokenizer unknown": _set("tokenizer.ggml.model", STR, "mine"),
        "tokenizer a number": _set("tokenizer.ggml.model", U32, 1),
        "pre-tokenizer unknown": _set("tokenizer.ggml.pre", STR, "mine"),
        "pre-tokenizer a number": _set("tokenizer.ggml.pre", U32, 1),
        "pre-tokenizer empty": _set("tokenizer.ggml.pre", STR, ""),
        "tokens gone": _drop(TOKENS),
        "tokens empty": _items(TOKENS, lambda _: []),
        "tokens numbers": _items(TOKENS, lambda items: list(range(len(items))), U32),
        "tokens a string": _set(TOKENS, STR, "a b c"),
        "token twice": _items(TOKENS, _doubled),
        "tokens one less": _items(TOKENS, lambda items: items[:-1]),
        "tokens one more": _items(TOKENS, lambda items: [*items, "one more token"]),
        "tokens a handful": _items(TOKENS, lambda items: items[:5]),
        "token empty": _items(TOKENS, lambda items: [*items[:40], "", *items[41:]]),
        "token not UTF-8": _items(TOKENS, lambda items: [*items[:40], "\udcff\udc80", *items[41:]]),
        "token NUL": _items(TOKENS, lambda items: [*items[:40], "\0", *items[41:]]),
        "token cursed": _items(TOKENS, lambda items: [*items[:40], "\x1b[2J\x07", *items[41:]]),
        "token of a megabyte": _items(TOKENS, lambda items: [*items[:40], "x" * (1 << 20), *items[41:]]),
        "tokens all odd": _items(TOKENS, lambda items: [f"\u2581{number}" for number in range(len(items))]),
        "types short": _items(TYPES, lambda items: items[:-1]),
        "types empty": _items(TYPES, lambda _: []),
        "types long": _items(TYPES, lambda items: [*items, 1, 1]),
        "types floats": _items(TYPES, lambda items: [float(item) for item in items], F32),
        "types unsigned": _items(TYPES, lambda items: items, U32),
        "types strings": _items(TYPES, lambda items: ["1"] * len(items), STR),
        "types unknown": _items(TYPES, lambda items: [77] * len(items)),
        "types negative": _items(TYPES, lambda items: [-1] * len(items)),
        "types all control": _items(TYPES, lambda items: [3] * len(items)),
        "types all bytes": _items(TYPES, lambda items: [6] * len(items)),
        "types all unknown tokens": _items(TYPES, lambda items: [2] * len(items)),
        "types all unused": _items(TYPES, lambda items: [5] * len(items)),
        "types a number": _set(TYPES, U32, 1),
        "types gone": _drop(TYPES),
        "scores short": _set(SCORES, ARR, Values(F32, [0.0] * 7)),
        "scores empty": _set(SCORES, ARR, Values(F32, [])),
        "scores strings": _set(SCORES, ARR, Values(STR, ["0"] * 2000)),
        "scores doubles": _set(SCORES, ARR, Values(F64, [0.0] * 2000)),
        "scores NaN": _set(SCORES, ARR, Values(F32, [NAN] * 2000)),
        "scores a number": _set(SCORES, F32, 1.0),
        "suppressed tokens of a wrong kind": _set("tokenizer.ggml.suppress_tokens", ARR, Values(STR, ["a"])),
        "precompiled charsmap short": _set("tokenizer.ggml.precompiled_charsmap", ARR, Values(U8, [1, 2])),
        "token type count": _set("tokenizer.ggml.token_type_count", U32, 2**32 - 1),
        "add_bos a string": _set("tokenizer.ggml.add_bos_token", STR, "yes"),
        "add_bos without a BOS": _also(
            _set("tokenizer.ggml.add_bos_token", BOOL, True), _set("tokenizer.ggml.bos_token_id", U32, 2**32 - 1)
        ),
        "template empty": _set("tokenizer.chat_template", STR, ""),
        "template a number": _set("tokenizer.chat_template", U32, 1),
        "template a list": _set("tokenizer.chat_template", ARR, Values(STR, ["{{ 1 }}"])),
        "template broken": _set("tokenizer.chat_template", STR, "{% for message in %}"),
        "template not UTF-8": _set("tokenizer.chat_template", STR, "{{ messages }}\udcff"),
        "template endless": _set(
            "tokenizer.chat_template",
            STR,
            "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
        ),
        "template a bomb": _set("tokenizer.chat_template", STR, "{{ 'x' * 10000000000 }}"),
        "template a power": _set("tokenizer.chat_template", STR, "{{ 9 ** 9 ** 9 }}"),
        "template deep": _set("tokenizer.chat_template", STR, "{{ " + "(" * 20000 + "1" + ")" * 20000 + " }}"),
        "template of many ifs": _set("tokenizer.chat_template", STR, "{% if true %}" * 5000),
        "template recursive": _set(
            "tokenizer.chat_template", STR, "{% macro f(x) %}{{ f(x) }}{{ f(x) }}{% endmacro %}{{ f(1) }}"
        ),
        "template breaks out": _set("tokenizer.chat_template", STR, "{{ ''.__class__.__mro__[1].__subclasses__() }}"),
    }
    for role in ("bos", "eos", "eot", "unknown", "padding"):
        key = f"tokenizer.ggml.{role}_token_id"
        for value in (1536, 2**31 - 1, 2**31, 2**32 - 1):
            faults[f"{role} {value}"] = _set(key, U32, value)
        faults[f"{role} a string"] = _set(key, STR, "2")
        faults[f"{role} negative"] = _set(key, I32, -5)
    for kind in ("llama", "bert", "gpt2", "t5", "rwkv", "plamo2", "gemma4", "none", "no_vocab", "test", "hybriddna"):
        faults[f"tokenizer {kind} instead"] = _set("tokenizer.ggml.model", STR, kind)
    return faults


def merge_faults() -> dict[str, Fault]:
    """Lies about the merges of a BPE vocabulary."""
    return {
        "merges gone": _drop(MERGES),
        "merges empty": _items(MERGES, lambda _: []),
        "merges numbers": _items(MERGES, lambda items: [1] * len(items), U32),
        "merges a string": _set(MERGES, STR, "a b"),
        "merge without a space": _items(MERGES, lambda items: ["ab", *items[1:]]),
        "merge empty": _items(MERGES, lambda items: ["", *items[1:]]),
        "merge a space": _items(MERGES, lambda items: [" ", *items[1:]]),
        "merge of what is no token": _items(MERGES, lambda items: ["qqq zzz", *items[1:]]),
        "merge of three": _items(MERGES, lambda items: ["a b c", *items[1:]]),
        "merge twice": _items(MERGES, lambda items: [items[0], *items]),
        "merge not UTF-8": _items(MERGES, lambda items: ["\udcff \udcfe", *items[1:]]),
    }


def tensor_faults(matrix: str, norm: str, embedding: str) -> dict[str, Fault]:
    """Lies of the table of tensors, and bad weights, told of one matrix, one norm and the embedding."""
    faults: dict[str, Fault] = {
        "no tensors": lambda model: model.tensors.clear(),
        "only the embedding": lambda model: _keep(model, embedding),
        "embedding of fewer rows": _shape(embedding, lambda shape: (shape[0], shape[1] - 32)),
        "embedding of more rows": _shape(embedding, lambda shape: (shape[0], shape[1] + 32)),
        "all matrices of 1 dimension": lambda model: _flattened(model),
        "an extra tensor": _extra("mystery.weight", (32, 32)),
        "an extra block": _extra("blk.99.attn_q.weight", (256, 256)),
        "an extra tensor of type I64": _extra("mystery.weight", (32, 32), 27),
        "an output of wrong shape": _extra("output.weight", (256, 7), 1),
        "rope factors of wrong length": _extra("rope_freqs.weight", (7,)),
        "rope factors of zero": _extra("rope_freqs.weight", (32,)),
        "a bias of wrong shape": _extra(matrix.replace(".weight", ".bias"), (7,)),
        "all weights NaN": _all_weights(NAN),
        "all weights infinite": _all_weights(INF),
        "all weights huge": _all_weights(60000.0),
        "all weights 0": _all_weights(0.0),
    }
    for called, name in {"matrix": matrix, "norm": norm, "embedding": embedding}.items():
        faults |= {
            f"{called} gone": _no_tensor(name),
            f"{called} renamed": _renamed(name, name + "s"),
            f"{called} named with a control byte": _renamed(name, "blk\x1b[2J"),
            f"{called} empty": _shape(name, lambda shape: (0, *shape[1:])),
            f"{called} a scalar": _shape(name, lambda _: ()),
            f"{called} of other dimensions": _shape(name, lambda shape: (*shape, 2)),
            f"{called} transposed": _shape(name, lambda shape: shape[::-1] if len(shape) > 1 else (1, *shape)),
            f"{called} narrower": _shape(name, lambda shape: (shape[0] - 32, *shape[1:])),
            f"{called} wider": _shape(name, lambda shape: (shape[0] + 32, *shape[1:])),
            f"{called} NaN": _weights(name, NAN),
            f"{called} infinite": _weights(name, INF),
        }
        for kind in (0, 1, 2, 8, 9, 10, 12, 14, 15, 16, 19, 20, 24, 25, 26, 27, 28, 29, 30, 34, 35, 39, 40):
            faults[f"{called} of type {gguf.GGMLQuantizationType(kind).name}"] = _type(name, kind)
    for kind in (24, 25, 26, 27, 28, 9, 15):
        faults[f"all matrices of type {gguf.GGMLQuantizationType(kind).name}"] = _types(kind, matrices=True)
    for kind in (1, 8, 26, 28, 30):
        faults[f"all norms of type {gguf.GGMLQuantizationType(kind).name}"] = _types(kind, matrices=False)
    return faults


def _keep(model: Model, *names: str) -> None:
    model.tensors = {name: model.tensors[name] for name in names}


def _flattened(model: Model) -> None:
    for tensor in model.tensors.values():
        tensor.shape = (int(np.prod(tensor.shape)),)


def faults_of(model: Model) -> dict[str, Fault]:
    """All faults that can be made of a model."""
    arch = str(model.entries["general.architecture"][1])
    faults = (
        metadata_faults(arch)
        | vocabulary_faults()
        | tensor_faults("blk.0.attn_q.weight", "blk.1.ffn_norm.weight", "token_embd.weight")
    )
    return faults | merge_faults() if MERGES in model.entries else faults
