"""StarCoder 2: grouped-query attention with rope, LayerNorm, GELU without a gate, biases everywhere."""

from collections.abc import Iterable

from ggufkit.architectures._blocks import (
    ATTENTION,
    EMBEDDINGS,
    LAYERS,
    PRE_NORMS,
    require_activation,
    window_not_applied,
)
from ggufkit.architectures._decoders import GELU, LAYER_NORM_DECODER, SQUARE
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, Vocabulary, blocks

MLP = blocks(LAYERS, {"mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"})


def remarks(config: Config) -> Iterable[str]:
    """Refuse another activation; warn of a sliding window, which llama.cpp does not apply."""
    require_activation(config, *GELU)
    yield from window_not_applied(config)


STARCODER2 = ArchSpec(
    name="starcoder2",
    hf_architectures=("Starcoder2ForCausalLM",),
    metadata=(LAYER_NORM_DECODER,),
    tensors=(EMBEDDINGS, PRE_NORMS, ATTENTION, MLP),
    defaults={
        "starcoder2": {
            "vocab_size": 49152,
            "hidden_size": 3072,
            "intermediate_size": 12288,
            "num_hidden_layers": 30,
            "num_attention_heads": 24,
            "num_key_value_heads": 2,
            "hidden_act": "gelu_pytorch_tanh",
            "max_position_embeddings": 4096,
            "norm_epsilon": 1e-5,
            "rope_theta": 10000.0,
            "tie_word_embeddings": True,
        }
    },
    biases="attn_norm attn_q? attn_k? attn_v? attn_output ffn_norm ffn_up ffn_down output_norm",
    shapes=SQUARE,
    vocabulary=Vocabulary.BYTE_LEVEL,
    remarks=remarks,
)

SPECS = (STARCODER2,)
