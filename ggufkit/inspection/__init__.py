"""What a model is: read off a GGUF file or a checkpoint folder, previewed through its template, compared."""
