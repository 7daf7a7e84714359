"""CodeShell: GPT-2's shape, roped, with q, k and v in one tensor and few key heads."""

from collections.abc import Iterable

from ggufkit.architectures._blocks import LAYER_NORM, require, require_activation
from ggufkit.architectures._decoders import GELU, OUTLINE
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, MetadataTable, TensorTable, Vocabulary, blocks

ENDS: TensorTable = {"transformer.wte": "token_embd", "transformer.ln_f": "output_norm", "lm_head": "output?"}
BLOCK = blocks(
    "transformer.h",
    {
        "ln_1": "attn_norm",
        "attn.c_attn": "attn_qkv",
        "attn.c_proj": "attn_output",
        "ln_2": "ffn_norm",
        "mlp.c_fc": "ffn_up",
        "mlp.c_proj": "ffn_down",
        "attn.rotary_emb.inv_freq": None,
    },
)
SIZES: MetadataTable = {
    "attention.head_count_kv": "kv_heads",
    "rope.freq_base": lambda _: 10000.0,
    "rope.scaling.type": lambda _: "linear",  # as llama.cpp's converter says it: no scaling
    "rope.scaling.factor": lambda _: 1,
}


def remarks(config: Config) -> Iterable[str]:
    """Refuse another activation, and another kind of positions."""
    require_activation(config, *GELU)
    require(config, "llama.cpp ropes CodeShell", position_embedding_type="rope")
    return ()


CODESHELL = ArchSpec(
    name="codeshell",
    hf_architectures=("CodeShellForCausalLM",),
    metadata=(OUTLINE, LAYER_NORM, SIZES),
    tensors=(ENDS, BLOCK),
    needs_output=True,
    defaults={"codeshell": {"layer_norm_epsilon": 1e-5, "n_positions": 8192}},
    sizes={
        "kv_heads": lambda c: c.get("num_query_groups") or c["heads"],
        "ff": lambda c: c.get("intermediate_size") or 4 * c["hidden"],
    },
    ropes=(),
    biases="attn_norm attn_qkv? attn_output ffn_norm ffn_up ffn_down output_norm",
    vocabulary=Vocabulary.BYTE_LEVEL,
    remarks=remarks,
)

SPECS = (CODESHELL,)
