"""Nemotron: LayerNorms stored less one, squared ReLU without a gate, half of each head roped."""

from collections.abc import Iterable

from ggufkit.architectures._blocks import ATTENTION, PLAIN_MLP, require_activation
from ggufkit.architectures._decoders import LAYER_NORM_DECODER, ROTARY, SQUARE, VOCABULARY_SIZE
from ggufkit.architectures._ops import AddOne
from ggufkit.architectures._rope import rope
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, MetadataTable, TensorTable, Vocabulary, blocks, to

ENDS: TensorTable = {
    "model.embed_tokens": "token_embd",
    "model.norm.weight": to("output_norm.weight", op=AddOne()),
    "model.norm.bias": "output_norm.bias",
    "lm_head": "output?",
}
NORMS = blocks(
    "model.layers",
    {
        "input_layernorm.weight": to("attn_norm.weight", op=AddOne()),
        "input_layernorm.bias": "attn_norm.bias",
        "post_attention_layernorm.weight": to("ffn_norm.weight", op=AddOne()),
        "post_attention_layernorm.bias": "ffn_norm.bias",
    },
)
SCALING: MetadataTable = {
    "attention.layer_norm_rms_epsilon": "layer_norm_eps",  # as llama.cpp's converter says, though nothing reads it
    "rope.scaling.type": lambda c: "linear" if rope(c)["rope_type"] == "linear" else "none",
}


def remarks(config: Config) -> Iterable[str]:
    """Refuse another activation."""
    require_activation(config, "relu2")
    return ()


NEMOTRON = ArchSpec(
    name="nemotron",
    hf_architectures=("NemotronForCausalLM",),
    metadata=(LAYER_NORM_DECODER, ROTARY, VOCABULARY_SIZE, SCALING),
    tensors=(ENDS, NORMS, ATTENTION, PLAIN_MLP),
    needs_output=True,
    defaults={
        "nemotron": {
            "vocab_size": 256000,
            "hidden_size": 6144,
            "intermediate_size": 24576,
            "num_hidden_layers": 32,
            "num_attention_heads": 48,
            "hidden_act": "relu2",
            "max_position_embeddings": 4096,
            "norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.5,
        }
    },
    spellings={"layer_norm_eps": ("norm_eps",), "partial_rotary_factor": ("rope_percent",)},
    ropes=("linear", "partial"),
    biases="attn_q? attn_k? attn_v? attn_output? ffn_up? ffn_down?",
    shapes=SQUARE,
    vocabulary=Vocabulary.NEMOTRON,
    remarks=remarks,
)

SPECS = (NEMOTRON,)
