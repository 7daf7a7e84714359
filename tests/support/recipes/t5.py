"""T5, MT5 and UMT5: with and without decoder, gates, scaled outputs; decoders shorter than encoders."""

from recipes._recipe import VOCABULARY, Recipe
from recipes.bert import NO_CLASS

PAIR = "an encoder and a decoder: test_encoders.py compares what comes out"
SCALED = {"dec.output_norm.weight": "takes the factor of the output, which llama.cpp does not know"}
COPIES = {"token_embd.weight": "real checkpoints hold the same thing thrice; here they differ"}
TABLES = {r"relative_attention_bias": (0.0, 1.0)}


def t5(**changes: object) -> dict[str, object]:
    return {
        "d_model": 64,
        "d_kv": 16,
        "d_ff": 96,
        "num_layers": 3,
        "num_heads": 4,
        "vocab_size": VOCABULARY,
        "decoder_start_token_id": 0,
        "pad_token_id": 0,
        "eos_token_id": 1,
        **changes,
    }


def one(model: str, config: dict[str, object], **more: object) -> Recipe:
    return Recipe(model, config, weights=TABLES, **{"no_logits": PAIR, **more})


def copies(shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Store the embedding under three names, as the first checkpoints do."""
    return {
        **shapes,
        "encoder.embed_tokens.weight": shapes["shared.weight"],
        "decoder.embed_tokens.weight": shapes["shared.weight"],
    }


def own_output(shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Store an output, and with it what T5's first checkpoints have and nobody reads."""
    unread = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    return {**shapes, "lm_head.weight": shapes["shared.weight"], unread: (32, 4)}


def only_the_encoders(shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Store the embedding under the encoder's name alone."""
    return {name.replace("shared.", "encoder.embed_tokens."): shape for name, shape in shapes.items()}


GATED = "gated-gelu"
RECIPES = {
    "t5-encoder": one("T5EncoderModel", t5()),
    "t5-encoder-gated": one(
        "T5EncoderModel",
        t5(
            d_kv=24,
            num_heads=3,
            feed_forward_proj=GATED,
            relative_attention_num_buckets=16,
            layer_norm_epsilon=1e-5,
            n_positions=256,
        ),
    ),
    "t5-encoder-embedding": one("T5EncoderModel", t5(num_layers=2), alter=only_the_encoders),
    "mt5-encoder": one("MT5EncoderModel", t5(d_kv=8), no_golden=NO_CLASS),
    "umt5-encoder": one("UMT5EncoderModel", t5(), no_golden=NO_CLASS),
    "t5": one("T5ForConditionalGeneration", t5(), explained=SCALED),
    "t5-1.1": one(
        "T5ForConditionalGeneration", t5(feed_forward_proj=GATED, tie_word_embeddings=False, num_decoder_layers=2)
    ),
    "t5-copies": one(
        "T5ForConditionalGeneration",
        t5(num_layers=2),
        alter=copies,
        explained={**SCALED, **COPIES},
        no_logits="the copies differ",
    ),
    # as released: an output of its own
    "t5-1.1-released": one(
        "T5ForConditionalGeneration",
        t5(feed_forward_proj=GATED, num_layers=2),
        alter=own_output,
        extra_config={"tie_word_embeddings": False, "scale_decoder_outputs": None, "n_positions": 512},
    ),
    "mt5-released": one(
        "MT5ForConditionalGeneration",
        t5(num_layers=2),
        alter=own_output,
        extra_config={"tie_word_embeddings": False, "tokenizer_class": "T5Tokenizer"},
    ),
    "umt5-released": one(
        "UMT5ForConditionalGeneration",
        t5(num_layers=2),
        alter=own_output,
        extra_config={"tie_word_embeddings": False, "scalable_attention": True},
        explained=SCALED,
    ),
    "umt5-model": one("UMT5Model", t5(num_layers=2), explained=SCALED, no_logits="the class has no output"),
    "t5-old-name": one(
        "T5ForConditionalGeneration",
        t5(num_layers=2),
        extra_config={"architectures": ["T5WithLMHeadModel"]},
        explained=SCALED,
    ),
    "mt5": one("MT5ForConditionalGeneration", t5(num_decoder_layers=2, num_heads=6)),
    "mt5-relu": one("MT5ForConditionalGeneration", t5(d_kv=8, feed_forward_proj="relu")),
    "umt5": one("UMT5ForConditionalGeneration", t5(num_decoder_layers=2), explained=SCALED),
}
