"""A Llama of a few kilobytes with random weights, written with the `gguf` package, that can read and say every byte."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
USER_DEFINED = ("<think>", "</think>")
LONG_SPACES = 48
_BLOCKS = 2
_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4


def byte_letters() -> list[str]:
    """The letter that byte-level BPE writes for each byte: itself where it prints, else one from 256 upwards."""
    printing = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in printing else chr(next(others)) for byte in range(256)]


def spell(text: str) -> str:
    letters = byte_letters()
    return "".join(letters[byte] for byte in text.encode())


def vocabulary() -> tuple[list[str], list[int], list[str]]:
    """Tokens, their types, and merges: all bytes, some English, runs of spaces up to 48, and special tokens."""
    tokens, merges = byte_letters(), []

    def merge(left: str, right: str) -> str:
        if left + right not in tokens:
            merges.append(f"{left} {right}")
            tokens.append(left + right)
        return left + right

    for word in (" the", "ing", "hello", " world", "im", "end"):
        spelled = spell(word)
        piece = spelled[0]
        for letter in spelled[1:]:
            piece = merge(piece, letter)
    space = spell(" ")
    run = {1: space}
    for length in (2, 4, 8, 16, 32):
        run[length] = merge(run[length // 2], run[length // 2])
    merge(run[32], run[16])
    types = [_NORMAL] * len(tokens) + [_CONTROL] * len(CONTROL) + [_USER_DEFINED] * len(USER_DEFINED)
    return [*tokens, *CONTROL, *USER_DEFINED], types, merges


def ids(text: str) -> list[int]:
    """The tokens of a text, one per byte."""
    letters = byte_letters()
    return [letters.index(letters[byte]) for byte in text.encode()]


def token(text: str) -> int:
    return vocabulary()[0].index(text)


def write(
    path: Path,
    *,
    template: str | None = CHATML,
    training_context: int = 512,
    seed: int = 1,
    add_bos: bool = False,
    metadata: dict[str, float | int] | None = None,
    successors: dict[int, int] | None = None,
    second_best: dict[int, int] | None = None,
    overrides: dict[str, Any] | None = None,
) -> Path:
    """Write a model with random weights, or one that says after each token the one that `successors` names.

    The one that `second_best` names is a little less likely, all others are much less so. `overrides` are metadata that
    take the place of what belongs there.
    """
    tokens, types, merges = vocabulary()
    writer = gguf.GGUFWriter(path, "llama")
    width = 64 if successors is None else -(-len(tokens) // 32) * 32
    writer.add_name("tiny")
    writer.add_context_length(training_context)
    writer.add_embedding_length(width)
    writer.add_block_count(_BLOCKS)
    writer.add_feed_forward_length(2 * width)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // 4)
    writer.add_vocab_size(len(tokens))
    for key, value in (metadata or {}).items():
        if isinstance(value, float):
            writer.add_float32(key, value)
        else:
            writer.add_int32(key, value)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(tokens.index("<|endoftext|>"))
    writer.add_eos_token_id(tokens.index("<|im_end|>"))
    writer.add_add_bos_token(add_bos)
    if template is not None:
        writer.add_chat_template(template)
    for key, value in (overrides or {}).items():
        kinds = {int: gguf.GGUFValueType.UINT32, float: gguf.GGUFValueType.FLOAT32, str: gguf.GGUFValueType.STRING}
        writer.kv_data[0][key] = gguf.GGUFValue(value, kinds.get(type(value), gguf.GGUFValueType.ARRAY))
    tensors = _random_weights(len(tokens), width, seed)
    if successors is not None:
        _script(tensors, successors, second_best or {})
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def chain(start: int, tokens: Sequence[int], *, endless: bool = False) -> dict[int, int]:
    """Successors that make the model say `tokens` after `start`, then stop, or begin again. No token may come twice."""
    assert len({start, *tokens}) == len(tokens) + 1
    last = tokens[0] if endless else token("<|im_end|>")
    return dict(zip([start, *tokens], [*tokens, last], strict=True))


def saying(path: Path, text: str, *, endless: bool = False, **more: object) -> Path:
    """Write a model that answers every ChatML question with this text, in which no byte may come twice."""
    return write(path, successors=chain(token(spell("\n")), ids(text), endless=endless), **more)


def _random_weights(vocabulary_size: int, width: int, seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)

    def matrix(rows: int, columns: int, scale: float = 1) -> np.ndarray:
        return (random.standard_normal((rows, columns)) * scale / np.sqrt(columns)).astype(np.float32)

    tensors = {
        "token_embd.weight": matrix(vocabulary_size, width, np.sqrt(width)),
        "output_norm.weight": np.ones(width, np.float32),
        "output.weight": matrix(vocabulary_size, width, 4),
    }
    for block in range(_BLOCKS):
        tensors |= {
            f"blk.{block}.attn_norm.weight": np.ones(width, np.float32),
            f"blk.{block}.ffn_norm.weight": np.ones(width, np.float32),
            f"blk.{block}.attn_q.weight": matrix(width, width, 2),
            f"blk.{block}.attn_k.weight": matrix(width // 2, width, 2),
            f"blk.{block}.attn_v.weight": matrix(width // 2, width),
            f"blk.{block}.attn_output.weight": matrix(width, width),
            f"blk.{block}.ffn_gate.weight": matrix(2 * width, width),
            f"blk.{block}.ffn_up.weight": matrix(2 * width, width),
            f"blk.{block}.ffn_down.weight": matrix(width, 2 * width),
        }
    return tensors


def _script(tensors: dict[str, np.ndarray], successors: dict[int, int], second_best: dict[int, int]) -> None:
    """Make the blocks add nothing, the embedding of token i the i-th unit vector, and the output the table."""
    for name in tensors:
        if "attn_output" in name or "ffn_down" in name:
            tensors[name][:] = 0
    embedding, output = tensors["token_embd.weight"], tensors["output.weight"]
    embedding[:], output[:] = 0, 0
    np.fill_diagonal(embedding, 1)
    for table, strength in ((successors, 10), (second_best, 9)):
        for before, after in table.items():
            output[after, before] = strength
