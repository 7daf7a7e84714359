"""Checkpoint x ArchSpec -> plan -> GGUF file."""
