"""From a GGUF file to a smaller one, by the compiled llama-quantize."""
