"""The GGUF format, on top of the `gguf` package: a checked reader and a streaming writer. Knows no model."""
