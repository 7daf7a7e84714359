"""Running a GGUF model: one engine for chat, generation and everything else that asks a model."""
