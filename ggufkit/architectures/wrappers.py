"""Models with more senses than text, whose text model is one of the others unchanged: only that part is converted.

Which one is what the config's text part says (`model_type`). Wrappers whose text model is of a kind of its own stand
with their family instead.
"""

WRAPPERS = frozenset(
    {
        "AudioFlamingo3ForConditionalGeneration",
        "Idefics3ForConditionalGeneration",
        "InternVLForConditionalGeneration",
        "JanusForConditionalGeneration",
        "LlavaForConditionalGeneration",
        "LlavaNextForConditionalGeneration",
        "Qwen2AudioForConditionalGeneration",
        "SmolVLMForConditionalGeneration",
        "VoxtralForConditionalGeneration",
    }
)
