"""Measuring models: against the checkpoint they come from, and against each other.

`verify.py` is the way in to proof: `metadata.py`, `tokens.py`, `chat_templates.py`, `tensors.py` and `logits.py` hold
one check each, and `results.py` what they give. `evaluate.py` is the way in to what quantizing has cost.

Nothing is imported here: processes that read a text start in half the time without the rooms that convert.
"""
