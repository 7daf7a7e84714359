"""Apertus: norms on q and k, and xIELU, an activation whose numbers are trained: tensors that become metadata."""

from collections.abc import Iterable

from ggufkit.architectures._blocks import (
    ATTENTION,
    DECODER,
    EMBEDDINGS,
    HEAD_NORMS,
    LAYERS,
    OPTIONAL_ATTENTION_BIASES,
    PLAIN_MLP,
    require_activation,
)
from ggufkit.architectures._decoders import LLAMA_SIZES
from ggufkit.architectures._rope import llama3_frequency_factors
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, Vocabulary, blocks
from ggufkit.errors import CheckpointError

NORMS = blocks(LAYERS, {"attention_layernorm": "attn_norm", "feedforward_layernorm": "ffn_norm"})
XIELU = {f"xielu.{part}": f"{LAYERS}.{{b}}.mlp.act_fn.{part}" for part in ("alpha_n", "alpha_p", "beta", "eps")}


def remarks(config: Config) -> Iterable[str]:
    """Refuse another activation, and a config that is silent on rope, of which transformers makes Llama 3's."""
    require_activation(config, "xielu")
    if not any(config.get(key) for key in ("rope_parameters", "rope_scaling", "rope_theta")):
        raise CheckpointError("config.json: no rope_parameters, rope_scaling or rope_theta")
    return ()


APERTUS = ArchSpec(
    name="apertus",
    hf_architectures=("ApertusForCausalLM",),
    metadata=(DECODER, LLAMA_SIZES),
    tensors=(EMBEDDINGS, NORMS, ATTENTION, HEAD_NORMS, PLAIN_MLP),
    tensor_metadata=XIELU,
    needs_output=True,
    defaults={
        "apertus": {
            "vocab_size": 131072,
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "max_position_embeddings": 65536,
            "rms_norm_eps": 1e-5,
            "hidden_act": "xielu",
        }
    },
    ropes=("linear", "yarn", "llama3"),
    biases=OPTIONAL_ATTENTION_BIASES,
    extra_tensors=llama3_frequency_factors,
    vocabulary=Vocabulary.LLAMA,
    remarks=remarks,
)

SPECS = (APERTUS,)
