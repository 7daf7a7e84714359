"""GPT-2 and GPT-BigCode (StarCoder): learned positions, LayerNorm, GELU, fused q, k and v, biases everywhere."""

from collections.abc import Iterable

from ggufkit.architectures._blocks import LAYER_NORM, require, require_activation
from ggufkit.architectures._decoders import GELU, OUTLINE
from ggufkit.architectures._head_ops import UngroupQkv
from ggufkit.architectures._ops import Concatenate, Then, Transpose
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, TensorTable, Vocabulary, blocks, to

SIZES = {"ff": lambda c: c.get("intermediate_size") or 4 * c["hidden"]}
SHAPES = {"position_embd": "max_position_embeddings hidden"}
BIASES = "attn_norm attn_qkv attn_output ffn_norm ffn_up ffn_down output_norm"
DEFAULTS = {
    "vocab_size": 50257,
    "n_positions": 1024,
    "n_embd": 768,
    "n_layer": 12,
    "n_head": 12,
    "layer_norm_epsilon": 1e-5,
    "tie_word_embeddings": True,
}
ENDS: TensorTable = {"wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm", "lm_head": "output?"}
NORMS = blocks("h", {"ln_1": "attn_norm", "ln_2": "ffn_norm"})
CONV1D = blocks(
    "h",
    {
        "attn.c_attn": to("attn_qkv", op=Transpose()),
        "attn.c_proj": to("attn_output", op=Transpose()),
        "mlp.c_fc": to("ffn_up", op=Transpose()),
        "mlp.c_proj": to("ffn_down", op=Transpose()),
    },
)
LINEAR = blocks(
    "h",
    {
        # With one key head this order is already ggml's; with many it is GPT-NeoX's.
        "attn.c_attn": to("attn_qkv", op=Then(UngroupQkv(), Concatenate())),
        "attn.c_proj": "attn_output",
        "mlp.c_fc": "ffn_up",
        "mlp.c_proj": "ffn_down",
    },
)


def remarks(config: Config) -> Iterable[str]:
    """Refuse what llama.cpp does not compute: another activation or scale of attention, cross attention."""
    require_activation(config, *GELU)
    why = "llama.cpp scales attention by the square root of the head size, and knows no cross attention"
    require(config, why, scale_attn_weights=True, scale_attn_by_inverse_layer_idx=False, add_cross_attention=False)
    return ()


GPT2 = ArchSpec(
    name="gpt2",
    hf_architectures=("GPT2LMHeadModel",),
    metadata=(OUTLINE, LAYER_NORM),
    tensors=(ENDS, NORMS, CONV1D),
    defaults={"gpt2": {**DEFAULTS, "activation_function": "gelu_new"}},
    sizes=SIZES,
    biases=BIASES,
    shapes=SHAPES,
    vocabulary=Vocabulary.BYTE_LEVEL,
    remarks=remarks,
)

STARCODER = ArchSpec(
    name="starcoder",
    hf_architectures=("GPTBigCodeForCausalLM",),
    metadata=(OUTLINE, LAYER_NORM, {"attention.head_count_kv": "kv_heads"}),
    tensors=(ENDS, NORMS, LINEAR),
    defaults={"gpt_bigcode": {**DEFAULTS, "activation_function": "gelu_pytorch_tanh", "multi_query": True}},
    sizes={**SIZES, "kv_heads": lambda c: 1 if c["multi_query"] else c["heads"]},
    biases=BIASES,
    shapes=SHAPES,
    vocabulary=Vocabulary.BYTE_LEVEL,
    remarks=remarks,
)

SPECS = (GPT2, STARCODER)
