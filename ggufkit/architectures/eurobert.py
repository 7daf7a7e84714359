"""EuroBert: a Llama that looks both ways."""

from collections.abc import Iterable

from ggufkit.architectures._blocks import ATTENTION, DECODER, GATED_MLP, PRE_NORMS, require_activation
from ggufkit.architectures._encoders import ENCODER, dropped, is_classifier, modules_left_out
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, MetadataTable, TensorTable, Vocabulary

ENDS: TensorTable = {"embed_tokens": "token_embd", "norm": "output_norm"}
METADATA: MetadataTable = {
    "rope.scaling.type": lambda c: "none",  # noqa: ARG005 - what llama.cpp's converter writes
    "classifier.pooling_type": lambda c: 1 if c.get("classifier_pooling") == "mean" else None,
}


def remarks(config: Config) -> Iterable[str]:
    """Refuse another activation; llama.cpp has no head for this architecture."""
    require_activation(config, "silu")
    yield from modules_left_out(config)
    if is_classifier(config):
        yield "llama.cpp runs no classification head of a EuroBert: it is left out"


EUROBERT = ArchSpec(
    name="eurobert",
    hf_architectures=("EuroBertModel", "EuroBertForMaskedLM", "EuroBertForSequenceClassification"),
    metadata=(DECODER, ENCODER, METADATA),
    tensors=(ENDS, PRE_NORMS, ATTENTION, GATED_MLP, dropped("lm_head", "dense", "classifier")),
    # llama.cpp knows no head size but hidden_size / heads
    shapes={"attn_q": "hidden hidden", "attn_output": "hidden hidden"},
    ropes=(),
    defaults={"eurobert": {"rope_theta": 10000.0, "rms_norm_eps": 1e-5, "max_position_embeddings": 8192}},
    vocabulary=Vocabulary.EURO_BERT,
    remarks=remarks,
)

SPECS = (EUROBERT,)
