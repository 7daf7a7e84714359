"""Where a model sits in its checkpoint: prefixes that wrappers add and base classes leave out do not matter."""

# Leading parts of a tensor's name that say only whose it is: `layers.0`, `model.layers.0`,
# `language_model.model.layers.0` and `model.language_model.layers.0` are one tensor. So with patterns.
_WRAPPERS = frozenset(
    {
        "model",
        "language_model",
        "text_model",
        "thinker",
        "llm",
        "transformer",
        "gpt_neox",
        "ernie",
        "backbone",
        "bert",
        "distilbert",
        "roberta",
    }
)
_OLD_NORMS = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}  # Bert's, of 2018
# First parts of what is left that belong to images or sound. Only a model whose config has such a part may have them.
_OTHER_SENSES = (
    "vision_tower vision_model vision_embed_tokens visual vit vpm resampler siglip2 multi_modal_projector mm_projector"
    " audio_tower audio_encoder audio_projection embed_vision embed_audio connector aligner generation_aligner"
    " generation_embeddings generation_head vqmodel image_newline mlp1 talker token2wav code2wav vision audio"
    " vision_embedder vision_projection projector"
)
OTHER_SENSES = frozenset(_OTHER_SENSES.split())


def stripped(name: str) -> str:
    """Strip a tensor's name of the leading parts that only say whose it is; norms' gamma and beta get today's names."""
    for old, new in _OLD_NORMS.items():
        name = f"{name.removesuffix(old)}{new}" if name.endswith(old) else name
    parts = name.split(".")
    while len(parts) > 1 and parts[0] in _WRAPPERS:
        parts.pop(0)
    return ".".join(parts)


def other_sense(name: str) -> str | None:
    """Tell to which part of a wrapper, not its text model, a tensor belongs; None when to none that we know."""
    first = stripped(name).split(".", 1)[0]
    return first if first in OTHER_SENSES else None
