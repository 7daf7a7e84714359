"""ggufkit: from a Hugging Face checkpoint to a GGUF model that runs well on an ordinary machine."""

__version__ = "0.1.0"
