"""EXAONE 3: Llama under other names."""

from collections.abc import Iterable

from ggufkit.architectures._blocks import DECODER, require_activation
from ggufkit.architectures._decoders import ROTARY
from ggufkit.architectures._rope import llama3_frequency_factors
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, TensorTable, Vocabulary, blocks

ENDS: TensorTable = {"transformer.wte": "token_embd", "transformer.ln_f": "output_norm", "lm_head": "output?"}
BLOCK = blocks(
    "transformer.h",
    {
        "ln_1": "attn_norm",
        "attn.attention.q_proj": "attn_q",
        "attn.attention.k_proj": "attn_k",
        "attn.attention.v_proj": "attn_v",
        "attn.attention.out_proj": "attn_output",
        "ln_2": "ffn_norm",
        "mlp.c_fc_0": "ffn_gate",
        "mlp.c_fc_1": "ffn_up",
        "mlp.c_proj": "ffn_down",
        "attn.attention.rotary.inv_freq": None,
    },
)


def remarks(config: Config) -> Iterable[str]:
    """Refuse another activation."""
    require_activation(config, "silu")
    return ()


EXAONE = ArchSpec(
    name="exaone",
    hf_architectures=("ExaoneForCausalLM",),
    metadata=(DECODER, ROTARY),
    tensors=(ENDS, BLOCK),
    defaults={"exaone": {"rope_theta": 10000.0, "max_position_embeddings": 2048, "layer_norm_epsilon": 1e-5}},
    spellings={"rms_norm_eps": ("layer_norm_epsilon",)},
    ropes=("linear", "yarn", "llama3"),
    vocabulary=Vocabulary.BYTE_LEVEL,
    extra_tensors=llama3_frequency_factors,
    remarks=remarks,
)

SPECS = (EXAONE,)
