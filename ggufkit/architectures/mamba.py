"""Mamba and Mamba 2: no attention, but a state that every token updates. FalconMamba also norms what steers it."""

from collections.abc import Iterable

from ggufkit.architectures import _states
from ggufkit.architectures._blocks import require_activation
from ggufkit.architectures._sizes import Config, SizeTable
from ggufkit.architectures._spec import ArchSpec, MetadataTable, TensorTable, Vocabulary, blocks
from ggufkit.architectures._states import STATE_BIASES, inside, no_conv_bias, rank, require_unlimited_steps

SPELLINGS = {
    "state_size": ("d_state",),
    "conv_kernel": ("d_conv",),
    "time_step_rank": ("dt_rank",),
    "layer_norm_epsilon": ("rms_norm_eps",),
}
SIZES: SizeTable = {
    "inner": lambda c: int(c["expand"] * c["hidden_size"]),
    "state": "state_size",
    "kernel": "conv_kernel",
    "dt_rank": rank("time_step_rank"),
}
BODY: MetadataTable = {
    **_states.NO_ATTENTION,
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "attention.layer_norm_rms_epsilon": "layer_norm_epsilon",
}
DEFAULTS = {"expand": 2, "conv_kernel": 4, "layer_norm_epsilon": 1e-5, "use_conv_bias": True}
MAMBA_DEFAULTS = {**DEFAULTS, "state_size": 16, "tie_word_embeddings": True}


def tensors(mixer: TensorTable) -> tuple[TensorTable, ...]:
    """Give the tables of a model whose blocks are a norm and this mixer."""
    ends: TensorTable = {"backbone.embeddings": "token_embd", "backbone.norm_f": "output_norm", "lm_head": "output?"}
    return ends, blocks("backbone.layers", {"norm": "attn_norm", **inside("mixer", mixer)})


def norms_steps(config: Config) -> bool:
    """Tell whether the model is a FalconMamba, which norms dt, B and C."""
    return "falcon" in f"{config.get('model_type')} {config.get('architectures')}".lower()


def remarks(config: Config) -> Iterable[str]:
    """Refuse another activation, a limited time step, or a width that llama.cpp does not load."""
    require_activation(config, "silu", "swish")
    require_unlimited_steps(config)
    if norms_steps(config) and (inner := config["mixer_rms_eps"]) != (outer := config["layer_norm_epsilon"]):
        yield (
            f"llama.cpp norms dt, B and C with the other norms' epsilon, {outer:g}, this model with {inner:g}: "
            "its answers differ very slightly from the original's"
        )


MAMBA = ArchSpec(
    name="mamba",
    hf_architectures=("MambaForCausalLM", "MambaLMHeadModel", "FalconMambaForCausalLM"),
    metadata=(BODY, _states.STATE, {"ssm.dt_b_c_rms": norms_steps}),
    tensors=tensors(_states.MAMBA_MIXER),
    biases=f"{STATE_BIASES} ssm_dt",
    sizes={**SIZES, "inner": lambda c: 2 * c["hidden_size"]},  # llama.cpp loads no other width
    shapes=_states.MAMBA_SHAPES,
    spellings=SPELLINGS,
    defaults={"mamba": MAMBA_DEFAULTS, "falcon_mamba": {**MAMBA_DEFAULTS, "mixer_rms_eps": 1e-6}},
    extra_tensors=no_conv_bias("use_conv_bias", "inner"),
    vocabulary=Vocabulary.MAMBA,
    drops_tied_output=True,
    remarks=remarks,
)

MAMBA2 = ArchSpec(
    name="mamba2",
    hf_architectures=("Mamba2ForCausalLM",),
    metadata=(BODY, _states.GROUPED_STATE),
    tensors=tensors(_states.MAMBA2_MIXER),
    biases=STATE_BIASES,
    sizes={**SIZES, **_states.GROUP, "groups": "n_groups", "ssm_heads": lambda c: c["inner"] // c["head_dim"]},
    shapes=_states.MAMBA2_SHAPES,
    spellings=SPELLINGS,
    defaults={"mamba2": {**DEFAULTS, "state_size": 128, "n_groups": 8, "head_dim": 64, "tie_word_embeddings": False}},
    extra_tensors=no_conv_bias("use_conv_bias", "inner+2*groups*state"),
    vocabulary=Vocabulary.MAMBA_2,
    remarks=remarks,
)

SPECS = (MAMBA, MAMBA2)
