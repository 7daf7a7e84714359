"""Falcon H1: attention and Mamba 2 side by side in every block, and many multipliers, all folded into the weights."""

from collections.abc import Iterable

from ggufkit.architectures import _states as states
from ggufkit.architectures._blocks import BODY, LAYERS, RMS_NORM, require, require_activation
from ggufkit.architectures._ops import Reshape
from ggufkit.architectures._rope import ROPE
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, MetadataTable, TensorTable, Vocabulary, blocks, to
from ggufkit.architectures._state_ops import Scale, ScaleParts

IN_PROJ = ScaleParts(
    "ssm_in_multiplier", "ssm_multipliers", ("inner", "inner", "groups*state", "groups*state", "ssm_heads")
)
TENSORS: TensorTable = {
    "model.embed_tokens": to("token_embd", op=Scale("embedding_multiplier")),
    "model.final_layernorm": to("output_norm", op=Scale("norm_multiplier")),
    "lm_head": to("output?", op=Scale("lm_head_multiplier")),
    **blocks(
        LAYERS,
        {
            "input_layernorm": "attn_norm",
            "pre_ff_layernorm.weight": "ffn_norm",  # llama.cpp wants it without a suffix
            **states.inside("mamba", states.MAMBA2_MIXER),
            "mamba.in_proj": to("ssm_in", op=IN_PROJ),
            "mamba.norm": to("ssm_norm?", op=Reshape("groups group")),
            "mamba.out_proj": to("ssm_out", op=Scale("ssm_out_multiplier")),
            "self_attn.q_proj": to("attn_q", op=Scale("attention_in_multiplier")),
            "self_attn.k_proj": to("attn_k", op=Scale("key_multiplier", "attention_in_multiplier")),
            "self_attn.v_proj": to("attn_v", op=Scale("attention_in_multiplier")),
            "self_attn.o_proj": to("attn_output", op=Scale("attention_out_multiplier")),
            "feed_forward.gate_proj": to("ffn_gate", op=Scale("gate_multiplier")),
            "feed_forward.up_proj": "ffn_up",
            "feed_forward.down_proj": to("ffn_down", op=Scale("down_multiplier")),
        },
    ),
}
SIZES: MetadataTable = {
    "vocab_size": "vocab_size",
    "attention.head_count_kv": "kv_heads",
    "attention.key_length": "head",
    "attention.value_length": "head",
}
STATE = {"mamba_d_ssm": 1024, "mamba_n_heads": 128, "mamba_n_groups": 1, "mamba_d_state": 256, "mamba_d_conv": 4}
STATE_DEFAULTS = {**STATE, "mamba_expand": 2, "mamba_conv_bias": True, "mamba_norm_before_gate": True}


def norm_multiplier(config: Config) -> float:
    """Undo the embedding's multiplier where the output is the embedding, and apply the output's."""
    if not config.get("tie_word_embeddings"):
        return 1.0
    return float(config["lm_head_multiplier"] / config["embedding_multiplier"])


def remarks(config: Config) -> Iterable[str]:
    """Refuse what llama.cpp does otherwise."""
    require_activation(config, "silu")
    states.require_unlimited_steps(config)
    require(config, "llama.cpp adds no bias to this model's attention", attention_bias=False)
    if config.get("mamba_rms_norm"):
        require(config, "llama.cpp gates before it norms", mamba_norm_before_gate=False)
    return ()


FALCON_H1 = ArchSpec(
    name="falcon-h1",
    hf_architectures=("FalconH1ForCausalLM",),
    metadata=(BODY, RMS_NORM, ROPE, states.GROUPED_STATE, SIZES),
    tensors=(TENSORS,),
    biases=f"{states.STATE_BIASES} ffn_gate? ffn_up? ffn_down?",
    sizes={
        **states.GROUP,
        "inner": lambda c: c.get("mamba_d_ssm") or int(c["mamba_expand"] * c["hidden_size"]),
        "state": "mamba_d_state",
        "kernel": "mamba_d_conv",
        "groups": "mamba_n_groups",
        "ssm_heads": "mamba_n_heads",
        "norm_multiplier": norm_multiplier,
        "gate_multiplier": lambda c: c["mlp_multipliers"][0],
        "down_multiplier": lambda c: c["mlp_multipliers"][1],
    },
    shapes=states.MAMBA2_SHAPES,
    defaults={
        "falcon_h1": {
            "rope_theta": 10000.0,
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 8192,
            "num_key_value_heads": 8,
            "mamba_d_ssm": 1024,
            "mamba_n_heads": 128,
            "mamba_n_groups": 1,
            "mamba_d_state": 256,
            "mamba_d_conv": 4,
            "mamba_expand": 2,
            "mamba_conv_bias": True,
            "mamba_norm_before_gate": True,
            "mlp_multipliers": [1.0, 1.0],
            "ssm_multipliers": [1.0] * 5,
            **dict.fromkeys(
                ("lm_head_multiplier", "embedding_multiplier", "key_multiplier", "attention_in_multiplier"), 1.0
            ),
            **dict.fromkeys(("attention_out_multiplier", "ssm_in_multiplier", "ssm_out_multiplier"), 1.0),
        }
    },
    extra_tensors=states.no_conv_bias("mamba_conv_bias", "inner+2*groups*state"),
    drops_tied_output=True,
    vocabulary=Vocabulary.BYTE_LEVEL,
    remarks=remarks,
)

SPECS = (FALCON_H1,)
