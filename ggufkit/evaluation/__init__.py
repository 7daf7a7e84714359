"""Measuring models: against the checkpoint they come from, and against each other.

`verify.py` is the way in to proof: `metadata.py`, `tokens.py`, `chat_templates.py`, `tensors.py` and `logits.py` hold
one check each, and `results.py` what they give.
"""

from ggufkit.evaluation.results import Check, Grade, Verdict, Verification
from ggufkit.evaluation.verify import CHECKS, verify

__all__ = ["CHECKS", "Check", "Grade", "Verdict", "Verification", "verify"]
