"""Llamas with random weights that read bytes: tied or not, dense or with experts, of any width."""

from pathlib import Path

import gguf
import numpy as np
from tiny_model import vocabulary

TEXT = Path(__file__).parents[2] / "ggufkit" / "demo_model" / "heldout.txt"


def write(
    path: Path,
    *,
    seed: int = 0,
    hidden: int = 256,
    feed_forward: int = 256,
    blocks: int = 2,
    experts: int = 0,
    tied: bool = True,
    biases: bool = False,
    context: int = 512,
    spread: float = 0.0,
    dtype: type = np.float16,
) -> Path:
    """Write a model whose tensors are scaled unevenly, so that they do not all matter equally.

    `spread` is the standard deviation of the logarithms of columns' sizes.
    """
    chance = np.random.default_rng(seed)
    tokens, types, merges = vocabulary()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(context)
    writer.add_embedding_length(hidden)
    writer.add_block_count(blocks)
    writer.add_feed_forward_length(feed_forward)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(hidden // 4)
    writer.add_vocab_size(len(tokens))
    if experts:
        writer.add_expert_count(experts)
        writer.add_expert_used_count(2)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(tokens.index("<|endoftext|>"))
    writer.add_eos_token_id(tokens.index("<|im_end|>"))

    def add(name: str, *shape: int, scale: float = 1.0) -> None:
        values = chance.standard_normal(shape) * scale / np.sqrt(shape[-1])
        if spread:
            values *= np.exp(spread * chance.standard_normal(shape[-1]))
        writer.add_tensor(f"{name}.weight", values.astype(dtype))

    def bias(name: str, *shape: int) -> None:
        if biases:
            writer.add_tensor(f"{name}.bias", (chance.standard_normal(shape) / 10).astype(np.float32))

    def ones(name: str, dtype: type = np.float32) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(hidden, dtype))

    add("token_embd", len(tokens), hidden, scale=4)
    ones("output_norm")
    if not tied:
        add("output", len(tokens), hidden, scale=4)
    for block in range(blocks):
        uneven = np.exp(chance.normal(0, 0.8, 7))
        ones(f"blk.{block}.attn_norm")
        ones(f"blk.{block}.ffn_norm")
        add(f"blk.{block}.attn_q", hidden, hidden, scale=2 * uneven[0])
        add(f"blk.{block}.attn_k", hidden // 2, hidden, scale=2 * uneven[1])
        add(f"blk.{block}.attn_v", hidden // 2, hidden, scale=uneven[2])
        add(f"blk.{block}.attn_output", hidden, hidden, scale=uneven[3])
        for part, rows in (
            ("attn_q", hidden),
            ("attn_k", hidden // 2),
            ("attn_v", hidden // 2),
            ("attn_output", hidden),
        ):
            bias(f"blk.{block}.{part}", rows)
        if experts:
            gate = chance.standard_normal((experts, hidden)) / np.sqrt(hidden)
            writer.add_tensor(f"blk.{block}.ffn_gate_inp.weight", gate.astype(np.float32))
        stack, end = ((experts,), "_exps") if experts else ((), "")
        add(f"blk.{block}.ffn_gate{end}", *stack, feed_forward, hidden, scale=uneven[4])
        add(f"blk.{block}.ffn_up{end}", *stack, feed_forward, hidden, scale=uneven[5])
        add(f"blk.{block}.ffn_down{end}", *stack, hidden, feed_forward, scale=uneven[6])
        for part, rows in (("gate", feed_forward), ("up", feed_forward), ("down", hidden)):
            bias(f"blk.{block}.ffn_{part}{end}", *stack, rows)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def text(characters: int, start: int = 0) -> str:
    """Give some of the demo model's held-out text."""
    return TEXT.read_text(encoding="utf-8")[start : start + characters]


def write_imatrix(path: Path, model: Path) -> Path:
    """Write an importance matrix that covers all matrices of the blocks and says nothing."""
    writer = gguf.GGUFWriter(path, "")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["some-text.txt"])
    writer.add_uint32("imatrix.chunk_count", 3)
    writer.add_uint32("imatrix.chunk_size", 512)
    for tensor in gguf.GGUFReader(model).tensors:
        if tensor.name.startswith("blk.") and len(tensor.shape) > 1:
            experts = int(np.prod(tensor.shape[2:]))
            writer.add_tensor(f"{tensor.name}.in_sum2", np.ones((experts, int(tensor.shape[0])), np.float32))
            writer.add_tensor(f"{tensor.name}.counts", np.ones((experts, 1), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
