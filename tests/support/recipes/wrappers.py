"""Wrappers whose text model is one of the others: only that part is converted."""

from recipes._recipe import Recipe, decoder

CLIP = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
CLIP |= {"image_size": 28, "patch_size": 14}
AUDIO = {"d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 48, "num_mel_bins": 8}
AUDIO |= {"max_source_positions": 16}
WHISPER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
WHISPER |= {"num_mel_bins": 8, "max_source_positions": 16}
TOWER = ("of vision_tower", "of multi_modal_projector")
ALONE = "llama.cpp's converter has no text model for it: it is the same as the text model alone"


def text(kind: str, **changes):
    return {"model_type": kind, **decoder(**changes)}


RECIPES = {
    "llava": Recipe(
        "LlavaForConditionalGeneration",
        {"text_config": text("llama"), "vision_config": {"model_type": "clip_vision_model", **CLIP}},
        warns=TOWER,
    ),
    "llava-mistral": Recipe(
        "LlavaForConditionalGeneration",
        {
            "text_config": text("mistral", head_dim=32, sliding_window=None),
            "vision_config": {"model_type": "pixtral", **CLIP},
        },
        warns=TOWER,
    ),
    "llava-qwen2": Recipe(
        "LlavaForConditionalGeneration",
        {"text_config": text("qwen2"), "vision_config": {"model_type": "clip_vision_model", **CLIP}},
        warns=TOWER,
        no_golden=ALONE,
    ),
    "llava-next": Recipe(
        "LlavaNextForConditionalGeneration",
        {"text_config": text("llama"), "vision_config": {"model_type": "clip_vision_model", **CLIP}},
        warns=(*TOWER, "of image_newline"),
        no_golden=ALONE,
    ),
    "voxtral": Recipe(
        "VoxtralForConditionalGeneration",
        {"text_config": text("llama", head_dim=32), "audio_config": WHISPER},
        warns=("of audio_tower", "of multi_modal_projector"),
    ),
    "janus": Recipe(
        "JanusForConditionalGeneration",
        {
            "text_config": text("llama"),
            "vision_config": {**CLIP, "projection_dim": 64, "num_image_tokens": 4},
            "vq_config": {
                "embed_dim": 8,
                "num_embeddings": 16,
                "latent_channels": 8,
                "base_channels": 32,
                "channel_multiplier": [1, 1],
                "num_res_blocks": 1,
                "projection_dim": 64,
                "image_token_embed_dim": 64,
            },
        },
        warns=(
            "of vision_model",
            "of aligner",
            "of vqmodel",
            "of generation_embeddings",
            "of generation_aligner",
            "of generation_head",
        ),
    ),
    "internvl": Recipe(
        "InternVLForConditionalGeneration",
        {
            "text_config": text("qwen2"),
            "vision_config": {**CLIP, "image_size": [28, 28], "patch_size": [14, 14]},
        },
        warns=TOWER,
        no_golden=ALONE,
    ),
    "idefics3": Recipe(
        "Idefics3ForConditionalGeneration",
        {"text_config": text("llama"), "vision_config": CLIP, "image_token_id": 300},
        warns=("of vision_model", "of connector"),
        no_golden=ALONE,
    ),
    "smolvlm": Recipe(
        "SmolVLMForConditionalGeneration",
        {
            "text_config": {**text("llama"), "architectures": ["VLlama3ForCausalLM"]},
            "vision_config": CLIP,
            "image_token_id": 300,
        },
        warns=("of vision_model", "of connector"),
    ),
    "qwen2-audio": Recipe(
        "Qwen2AudioForConditionalGeneration",
        {"text_config": text("qwen2"), "audio_config": AUDIO},
        warns=("of audio_tower", "of multi_modal_projector"),
    ),
    "audio-flamingo3": Recipe(
        "AudioFlamingo3ForConditionalGeneration",
        {"text_config": text("qwen2"), "audio_config": WHISPER},
        warns=("of audio_tower", "of multi_modal_projector"),
    ),
}
