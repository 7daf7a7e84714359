"""GPT-NeoX (Pythia): q, k and v of each head side by side, a part of each head roped, two norms beside each other."""

from collections.abc import Iterable

from ggufkit.architectures._blocks import LAYER_NORM, require, require_activation
from ggufkit.architectures._decoders import GELU, OUTLINE, ROPE_UNLESS_USUAL, ROTARY
from ggufkit.architectures._head_ops import UngroupQkv
from ggufkit.architectures._ops import Concatenate, Then
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, TensorTable, Vocabulary, blocks, to

ENDS: TensorTable = {
    "gpt_neox.embed_in": "token_embd",
    "gpt_neox.final_layer_norm": "output_norm",
    "embed_out": "output?",
}
BLOCK = blocks(
    "gpt_neox.layers",
    {
        "input_layernorm": "attn_norm",
        "attention.query_key_value": to("attn_qkv", op=Then(UngroupQkv(), Concatenate())),
        "attention.dense": "attn_output",
        "post_attention_layernorm": "ffn_norm",
        "mlp.dense_h_to_4h": "ffn_up",
        "mlp.dense_4h_to_h": "ffn_down",
    },
)


def remarks(config: Config) -> Iterable[str]:
    """Refuse another activation, and attention without biases."""
    require_activation(config, *GELU)
    require(config, "llama.cpp's GPT-NeoX has biases on attention", attention_bias=True)
    return ()


GPTNEOX = ArchSpec(
    name="gptneox",
    hf_architectures=("GPTNeoXForCausalLM",),
    metadata=(OUTLINE, LAYER_NORM, ROPE_UNLESS_USUAL, ROTARY, {"use_parallel_residual": "use_parallel_residual"}),
    tensors=(ENDS, BLOCK),
    needs_output=True,
    defaults={
        "gpt_neox": {
            "vocab_size": 50432,
            "hidden_size": 6144,
            "num_hidden_layers": 44,
            "num_attention_heads": 64,
            "intermediate_size": 24576,
            "hidden_act": "gelu",
            "max_position_embeddings": 2048,
            "layer_norm_eps": 1e-5,
            "use_parallel_residual": True,
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.25,
        }
    },
    sizes={"kv_heads": "heads"},
    ropes=("linear", "yarn", "partial"),
    biases="attn_norm attn_qkv attn_output ffn_norm ffn_up ffn_down output_norm",
    vocabulary=Vocabulary.BYTE_LEVEL,
    remarks=remarks,
)

SPECS = (GPTNEOX,)
