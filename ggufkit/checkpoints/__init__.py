"""A Hugging Face model folder as a value: its config, its tensors, its vocabulary."""
