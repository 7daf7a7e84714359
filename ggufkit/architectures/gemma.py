"""Gemma 2: four norms a block, all stored minus one, and an output tied to the embedding."""

from collections.abc import Iterable

from ggufkit.architectures._blocks import (
    ATTENTION,
    COMMON_DEFAULTS,
    DECODER,
    EMBEDDINGS,
    GATED_MLP,
    LAYERS,
    require_activation,
)
from ggufkit.architectures._ops import AddOne
from ggufkit.architectures._rope import rope
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, MetadataTable, TensorTable, Vocabulary, blocks, to
from ggufkit.errors import CheckpointError

SOFTCAPS: MetadataTable = {
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "attention.sliding_window": "sliding_window",
    # llama.cpp's default is written by nobody; another base must not be lost.
    "rope.freq_base": lambda config: base if (base := rope(config)["rope_theta"]) != 10000.0 else None,
}
NORMS_PLUS_ONE: TensorTable = {
    "model.norm": to("output_norm", op=AddOne()),
    **blocks(
        LAYERS,
        {
            "input_layernorm": to("attn_norm", op=AddOne()),
            "post_attention_layernorm": to("post_attention_norm", op=AddOne()),
            "pre_feedforward_layernorm": to("ffn_norm", op=AddOne()),
            "post_feedforward_layernorm": to("post_ffw_norm", op=AddOne()),
        },
    ),
}
TIED_OUTPUT: TensorTable = {"lm_head": None}  # some quantizers save it; llama.cpp reads token_embd

_LAYERS_27B = 46  # the one size whose attention llama.cpp scales by hidden_size / heads (src/models/gemma2.cpp)


def remarks(config: Config) -> Iterable[str]:
    """Refuse an activation, an order of layers or an attention scale that llama.cpp does not compute."""
    require_activation(config, "gelu_pytorch_tanh", keys=("hidden_activation",))
    config.get("hidden_act")  # released configs carry both; transformers computes the other
    layers = config.get("layer_types")
    if layers and layers != ["sliding_attention" if b % 2 == 0 else "full_attention" for b in range(len(layers))]:
        raise CheckpointError("config.json: layer_types do not alternate, as llama.cpp's Gemma 2 does")
    scaled_by = (
        config["hidden_size"] / config["num_attention_heads"]
        if config["num_hidden_layers"] == _LAYERS_27B
        else config["head_dim"]
    )
    if config["query_pre_attn_scalar"] != scaled_by:
        raise CheckpointError(
            f"config.json: query_pre_attn_scalar is {config['query_pre_attn_scalar']}; llama.cpp scales attention by "
            f"{scaled_by:g} for a Gemma 2 of {config['num_hidden_layers']} layers",
            hint="no GGUF key expresses this; the model's answers would be wrong",
        )
    return ()


GEMMA2 = ArchSpec(
    name="gemma2",
    hf_architectures=("Gemma2ForCausalLM",),
    metadata=(DECODER, SOFTCAPS),
    tensors=(EMBEDDINGS, ATTENTION, GATED_MLP, NORMS_PLUS_ONE, TIED_OUTPUT),
    defaults={
        "gemma2": {
            **COMMON_DEFAULTS,
            "max_position_embeddings": 8192,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
            "sliding_window": 4096,
            "query_pre_attn_scalar": 256,
            "tie_word_embeddings": True,
        }
    },
    vocabulary=Vocabulary.GEMMA,
    remarks=remarks,
)

SPECS = (GEMMA2,)
