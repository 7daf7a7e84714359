"""What models answer: the same prompts side by side, and questions whose answers are known."""
