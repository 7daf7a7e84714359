"""Jais 2: LayerNorms and biases everywhere, squared ReLU without a gate, roped NEOX-style."""

from collections.abc import Iterable

from ggufkit.architectures._blocks import ATTENTION, EMBEDDINGS, PLAIN_MLP, PRE_NORMS, require_activation
from ggufkit.architectures._decoders import LAYER_NORM_DECODER
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, Vocabulary


def remarks(config: Config) -> Iterable[str]:
    """Refuse another activation."""
    require_activation(config, "relu2")
    return ()


JAIS2 = ArchSpec(
    name="jais2",
    hf_architectures=("Jais2ForCausalLM",),
    metadata=(LAYER_NORM_DECODER, {"rope.dimension_count": "head"}),
    tensors=(EMBEDDINGS, PRE_NORMS, ATTENTION, PLAIN_MLP),
    defaults={
        "jais2": {
            "vocab_size": 150272,
            "hidden_size": 3328,
            "intermediate_size": 26624,
            "num_hidden_layers": 32,
            "num_attention_heads": 26,
            "hidden_act": "relu2",
            "max_position_embeddings": 8192,
            "layer_norm_eps": 1e-5,
            "rope_theta": 10000.0,
        }
    },
    biases="attn_norm attn_q? attn_k? attn_v? attn_output ffn_norm ffn_up ffn_down output_norm",
    vocabulary=Vocabulary.BYTE_LEVEL,
    remarks=remarks,
)

SPECS = (JAIS2,)
