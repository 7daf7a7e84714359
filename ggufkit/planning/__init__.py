"""What every type of a model would cost and bring, known before a byte of it is written, or even downloaded."""
