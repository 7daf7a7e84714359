"""HRM-Text: two stacks of layers, run in cycles over the same tokens; norms without parameters, gated attention."""

from collections.abc import Iterable

from ggufkit.architectures._blocks import DECODER, require_activation
from ggufkit.architectures._ops import Split
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, MetadataTable, TensorTable, Vocabulary, blocks, to

LAYER: TensorTable = {
    "attn.gqkv_proj": to("attn_gate", "attn_q", "attn_k", "attn_v", op=Split(*["heads*head"] * 4)),
    "attn.o_proj": "attn_output",
    "mlp.gate_up_proj": to("ffn_gate", "ffn_up", op=Split("ff", "ff")),
    "mlp.down_proj": "ffn_down",
}
ENDS: TensorTable = {
    "model.embed_tokens": "token_embd",
    "model.z_L_init": "hrm.z_l_init",
    "lm_head": "output?",
}
CYCLES: MetadataTable = {
    # llama.cpp wants a cache for every pass through a layer
    "block_count": lambda c: c["stack"] * c["H_cycles"] * (c["L_cycles"] + 1),
    "attention.head_count_kv": lambda c: c.get("num_key_value_heads"),
    "rope.dimension_count": "head",
    "embedding_scale": lambda c: c.get("embedding_scale") or 1 / c["initializer_range"],
    "hrm.layers_per_stack": "stack",
    "hrm.h_cycles": "H_cycles",
    "hrm.l_cycles": "L_cycles",
    "hrm.prefix_lm": lambda c: bool(c.get("prefix_lm", False)),
}


def remarks(config: Config) -> Iterable[str]:
    """Refuse another activation."""
    require_activation(config, "silu")
    return ()


HRM_TEXT = ArchSpec(
    name="hrm_text",
    hf_architectures=("HrmTextForCausalLM",),
    metadata=(DECODER, CYCLES),
    tensors=(ENDS, blocks("model.L_module.layers", LAYER), blocks("model.H_module.layers", LAYER, after="stack")),
    defaults={
        "hrm_text": {
            "vocab_size": 151808,
            "hidden_size": 1536,
            "intermediate_size": 4096,
            "num_attention_heads": 12,
            "head_dim": 128,
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0,
            "H_cycles": 2,
            "L_cycles": 3,
            "initializer_range": 0.02,
            "prefix_lm": True,
        }
    },
    # The first configs count the layers of one stack in num_hidden_layers.
    sizes={
        "stack": lambda c: c.get("num_layers_per_stack") or c["num_hidden_layers"],
        "layers": lambda c: 2 * c["stack"],
        "kv_heads": "heads",
    },
    shapes={"attn_gate": "heads*head hidden", "hrm.z_l_init": "hidden"},
    vocabulary=Vocabulary.BYTE_LEVEL,
    remarks=remarks,
)

SPECS = (HRM_TEXT,)
