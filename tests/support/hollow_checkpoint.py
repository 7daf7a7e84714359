"""A Llama of any size as a checkpoint whose weights are holes: it takes no room on the disk, and nobody reads it."""

import json
import math
from pathlib import Path

import tiny_checkpoints


def write(
    folder: Path, *, hidden: int = 2048, feed_forward: int = 8192, layers: int = 16, heads: int = 32, shards: int = 1
) -> Path:
    """Write config, tokenizer, and headers; about a billion weights by default. Return the folder."""
    folder.mkdir(parents=True)
    vocabulary = tiny_checkpoints.VOCABULARY
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16",
        "hidden_size": hidden, "intermediate_size": feed_forward, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": heads // 4, "vocab_size": vocabulary,
        "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
        "tie_word_embeddings": False, "bos_token_id": 0, "eos_token_id": 0,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    tiny_checkpoints.write_tokenizer("byte-level-bpe", folder)
    shapes = {"model.embed_tokens.weight": [vocabulary, hidden], "lm_head.weight": [vocabulary, hidden]}
    shapes |= {"model.norm.weight": [hidden]}
    key_values = hidden // 4
    for block in range(layers):
        for name, shape in {
            "input_layernorm": [hidden], "post_attention_layernorm": [hidden],
            "self_attn.q_proj": [hidden, hidden], "self_attn.o_proj": [hidden, hidden],
            "self_attn.k_proj": [key_values, hidden], "self_attn.v_proj": [key_values, hidden],
            "mlp.gate_proj": [feed_forward, hidden], "mlp.up_proj": [feed_forward, hidden],
            "mlp.down_proj": [hidden, feed_forward],
        }.items():  # fmt: skip
            shapes[f"model.layers.{block}.{name}.weight"] = shape
    names = sorted(shapes)
    files = (
        ["model.safetensors"]
        if shards == 1
        else [f"model-{i + 1:05d}-of-{shards:05d}.safetensors" for i in range(shards)]
    )
    for number, file in enumerate(files):
        _write_shard(folder / file, {name: shapes[name] for name in names[number::shards]})
    if shards > 1:
        weight_map = {name: files[index % shards] for index, name in enumerate(names)}
        index = {"metadata": {}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def weight_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _write_shard(path: Path, shapes: dict[str, list[int]]) -> None:
    entries, position = {}, 0
    for name, shape in shapes.items():
        size = 2 * math.prod(shape)
        entries[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [position, position + size]}
        position += size
    header = json.dumps(entries).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + position)
