"""Arcee AFM: Llama with squared ReLU in place of the gated feed-forward."""

from collections.abc import Iterable

from ggufkit.architectures._blocks import (
    ATTENTION,
    DECODER,
    EMBEDDINGS,
    OPTIONAL_QKV_BIASES,
    PLAIN_MLP,
    PRE_NORMS,
    require_activation,
)
from ggufkit.architectures._decoders import LLAMA_SIZES, PERMUTED_QK
from ggufkit.architectures._rope import llama3_frequency_factors
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, Vocabulary


def remarks(config: Config) -> Iterable[str]:
    """Refuse another activation."""
    require_activation(config, "relu2")
    return ()


ARCEE = ArchSpec(
    name="arcee",
    hf_architectures=("ArceeForCausalLM",),
    metadata=(DECODER, LLAMA_SIZES),
    tensors=(EMBEDDINGS, PRE_NORMS, ATTENTION, PLAIN_MLP, PERMUTED_QK),
    defaults={
        "arcee": {
            "vocab_size": 32000,
            "hidden_size": 2560,
            "intermediate_size": 18432,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "hidden_act": "relu2",
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
        }
    },
    ropes=("linear", "yarn", "llama3"),
    biases=OPTIONAL_QKV_BIASES,
    extra_tensors=llama3_frequency_factors,
    vocabulary=Vocabulary.LLAMA,
    remarks=remarks,
)

SPECS = (ARCEE,)
