"""Checkpoint x ArchSpec -> plan -> GGUF file.

`convert.py` is the way in; `plan.py` decides everything, `metadata.py` and `description.py` describe the model,
`execute.py` streams the weights through `elements.py`; `adapters/` does the same for LoRA.
"""

from ggufkit.conversion.convert import ConversionResult, Converter, convert, open_plan, type_of, who_converts
from ggufkit.conversion.kept import Keep
from ggufkit.conversion.metadata_edits import MetadataEdits, read_edits
from ggufkit.conversion.plan import ConversionPlan, OutputType
from ggufkit.conversion.vocabulary import TokenizerOptions
from ggufkit.conversion.vocabulary_only import convert_vocabulary

__all__ = [
    "ConversionPlan",
    "ConversionResult",
    "Converter",
    "Keep",
    "MetadataEdits",
    "OutputType",
    "TokenizerOptions",
    "convert",
    "convert_vocabulary",
    "open_plan",
    "read_edits",
    "type_of",
    "who_converts",
]
