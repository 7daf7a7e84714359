"""LoRA adapters as PEFT saves them: to GGUF, or merged into the model that they change.

`peft.py` reads an adapter; `low_rank.py` takes its factors through the operations of an architecture's rules;
`convert.py` writes them as a GGUF adapter; `merge_checkpoint.py` and `merge_gguf.py` add them to the weights.
"""

from ggufkit.conversion.adapters.convert import AdapterResult, convert_lora
from ggufkit.conversion.adapters.merge import merge_lora
from ggufkit.conversion.adapters.merge_checkpoint import MergeResult, merge_into_checkpoint
from ggufkit.conversion.adapters.merge_gguf import merge_into_gguf
from ggufkit.conversion.adapters.peft import Adapter, LowRank, open_adapter

__all__ = [
    "Adapter",
    "AdapterResult",
    "LowRank",
    "MergeResult",
    "convert_lora",
    "merge_into_checkpoint",
    "merge_into_gguf",
    "merge_lora",
    "open_adapter",
]
