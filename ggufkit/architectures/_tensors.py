"""What is true of a GGUF tensor whatever the architecture: its shape, the kind of block it is in, its type."""

from collections.abc import Mapping

# Name in a block (without `blk.N.`) or at the top -> shape of the weight, outermost axis first. A bias has the shape of
# the weight without its last axis, or that of a norm's weight. See _sizes.py for the formulas.
SHAPES: Mapping[str, str] = {
    "token_embd": "vocab hidden",
    "output": "vocab hidden",
    "output_norm": "hidden",
    # norms
    **dict.fromkeys(
        (
            "attn_norm",
            "attn_norm_2",
            "ffn_norm",
            "post_attention_norm",
            "post_ffw_norm",
            "attn_output_norm",
            "layer_output_norm",
            "token_embd_norm",
        ),
        "hidden",
    ),
    # encoders
    "position_embd": "positions hidden",
    "token_types": "type_vocab_size hidden",
    "cls": "hidden hidden",
    "cls.norm": "hidden",
    "cls.output": "labels hidden",
    # attention
    "attn_q": "heads*head hidden",
    "attn_k": "kv_heads*head hidden",
    "attn_v": "kv_heads*value hidden",
    "attn_qkv": "heads*head+kv_heads*head+kv_heads*value hidden",
    "attn_output": "hidden heads*value",
    "attn_q_norm": "head",
    "attn_k_norm": "head",
    "attn_sinks": "heads",
    # latent attention
    "attn_q_a": "q_rank hidden",
    "attn_q_a_norm": "q_rank",
    "attn_q_b": "heads*nope+heads*rope q_rank",
    "attn_kv_a_mqa": "kv_rank+rope hidden",
    "attn_kv_a_norm": "kv_rank",
    "attn_kv_b": "heads*nope+heads*v_head_dim kv_rank",
    "attn_k_b": "heads kv_rank nope",
    "attn_v_b": "heads v_head_dim kv_rank",
    # feed-forward
    "ffn_gate": "ff hidden",
    "ffn_up": "ff hidden",
    "ffn_down": "hidden ff",
    # experts
    "ffn_gate_inp": "experts hidden",
    "exp_probs_b": "experts",
    "ffn_gate_exps": "experts expert_ff hidden",
    "ffn_up_exps": "experts expert_ff hidden",
    "ffn_gate_up_exps": "experts 2*expert_ff hidden",
    "ffn_down_exps": "experts hidden expert_ff",
    "ffn_gate_shexp": "shared_ff hidden",
    "ffn_up_shexp": "shared_ff hidden",
    "ffn_down_shexp": "hidden shared_ff",
    "ffn_gate_inp_shexp": "1 hidden",
    # multi-token prediction
    "nextn.eh_proj": "hidden 2*hidden",
    "nextn.enorm": "hidden",
    "nextn.hnorm": "hidden",
    "nextn.embed_tokens": "vocab hidden",
    "nextn.shared_head_head": "vocab hidden",
    "nextn.shared_head_norm": "hidden",
}

# What a block must be for the tensor to be in it; a spec that tells no kinds has them all alike.
KINDS: Mapping[str, str] = {
    **dict.fromkeys(("ffn_gate", "ffn_up", "ffn_down"), "dense"),
    **dict.fromkeys(
        (
            "ffn_gate_inp",
            "exp_probs_b",
            "ffn_gate_exps",
            "ffn_up_exps",
            "ffn_gate_up_exps",
            "ffn_down_exps",
            "ffn_gate_shexp",
            "ffn_up_shexp",
            "ffn_down_shexp",
            "ffn_gate_inp_shexp",
        ),
        "sparse",
    ),
    **dict.fromkeys(
        ("attn_q", "attn_k", "attn_v", "attn_qkv", "attn_output", "attn_q_norm", "attn_k_norm", "attn_sinks"),
        "attention",
    ),
    **dict.fromkeys(
        (
            "attn_gate",
            "ssm_in",
            "ssm_conv1d",
            "ssm_x",
            "ssm_dt",
            "ssm_dt_norm",
            "ssm_b_norm",
            "ssm_c_norm",
            "ssm_a",
            "ssm_d",
            "ssm_norm",
            "ssm_out",
            "ssm_ba",
            "ssm_beta_alpha",
            "ssm_alpha",
            "ssm_beta",
            "shortconv.conv",
            "shortconv.in_proj",
            "shortconv.out_proj",
        ),
        "recurrent",
    ),
    **dict.fromkeys(
        (
            "nextn.eh_proj",
            "nextn.enorm",
            "nextn.hnorm",
            "nextn.embed_tokens",
            "nextn.shared_head_head",
            "nextn.shared_head_norm",
        ),
        "prediction",
    ),
}
OTHER_KIND = {
    "dense": "sparse",
    "sparse": "dense",
    "attention": "recurrent",
    "recurrent": "attention",
    "prediction": "trunk",  # told by the planner
    "first": "later",
    "later": "first",
    "gated": "plain",
    "plain": "gated",
}

# Matrices that llama.cpp's converter leaves in float32 whatever the output type (conversion/base.py: prepare_tensors).
ALWAYS_F32 = frozenset(
    {
        "ffn_gate_inp",
        "ffn_gate_inp_shexp",
        "position_embd",
        "token_types",
        "ssm_conv1d",
        "shortconv.conv",
        "time_mix_first",
        "time_mix_w1",
        "time_mix_w2",
        "time_mix_decay_w1",
        "time_mix_decay_w2",
        "time_mix_lerp_fused",
        "altup_correct_coef",
        "altup_predict_coef",
        "ssm_conv1d_q",
        "ssm_conv1d_k",
        "ssm_conv1d_v",
        "indexer.proj",
    }
)


def bare(name: str) -> str:
    """Strip a GGUF tensor name of its block and of `.weight` or `.bias`."""
    return in_block(name).removesuffix(".weight").removesuffix(".bias")


def in_block(name: str) -> str:
    """Strip a GGUF tensor name of its block: of `blk.N.`, of `enc.blk.N.` or of `dec.blk.N.`."""
    stack, block, rest = name.partition("blk.")
    return rest.split(".", 1)[1] if block and stack in ("", "enc.", "dec.") else name


def weight_shape(name: str, own: Mapping[str, str]) -> str | None:
    """Give the shape formulas of a tensor (`blk.N.attn_q.bias`, say); `own` is the spec's. None when unknown.

    A name with its suffix goes before one without.
    """
    suffixed = in_block(name)
    for table in (own, SHAPES):
        for key in (suffixed, bare(name)):
            if key in table:
                formulas = table[key]
                return _of_bias(formulas) if key != suffixed and name.endswith(".bias") else formulas
    return None


def _of_bias(formulas: str) -> str:
    axes = formulas.split()
    return " ".join(axes[:-1] or axes)
