"""Checkpoint x ArchSpec -> plan -> GGUF file.

`convert.py` is the way in; `plan.py` decides everything, `metadata.py` describes the model, `execute.py` streams the
weights through `elements.py`.
"""

from ggufkit.conversion.convert import ConversionResult, Converter, convert, open_plan, type_of, who_converts
from ggufkit.conversion.plan import ConversionPlan, OutputType
from ggufkit.conversion.vocabulary import TokenizerOptions
from ggufkit.conversion.vocabulary_only import convert_vocabulary

__all__ = [
    "ConversionPlan",
    "ConversionResult",
    "Converter",
    "OutputType",
    "TokenizerOptions",
    "convert",
    "convert_vocabulary",
    "open_plan",
    "type_of",
    "who_converts",
]
