"""A checkpoint's tokenizer files as the `tokenizer.*` metadata of a GGUF file."""
