"""ggufkit: from a Hugging Face checkpoint to a GGUF model that runs well on an ordinary machine.

The Python API; what is heavy is imported when it is first used:

    ggufkit.convert(source, output, outtype=...)   checkpoint folder -> GGUF file
    ggufkit.quantize(source, "Q4_K_M", output)     GGUF file -> smaller GGUF file
    ggufkit.Engine.open(model)                     a model ready to generate
    ggufkit.ChatSession(engine=..., template=...)  a conversation with it
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ggufkit.conversion import ConversionResult, Converter, OutputType, convert
    from ggufkit.inference.engine import Engine
    from ggufkit.inference.options import EngineOptions, SamplingOptions
    from ggufkit.inference.session import ChatSession
    from ggufkit.inference.templates import ChatTemplate
    from ggufkit.quantization.plan import QuantizeOptions
    from ggufkit.quantization.quantize import QuantizationResult, quantize

__all__ = [
    "ChatSession",
    "ChatTemplate",
    "ConversionResult",
    "Converter",
    "Engine",
    "EngineOptions",
    "OutputType",
    "QuantizationResult",
    "QuantizeOptions",
    "SamplingOptions",
    "__version__",
    "convert",
    "quantize",
]

_HOMES = {
    "ChatSession": "ggufkit.inference.session",
    "ChatTemplate": "ggufkit.inference.templates",
    "ConversionResult": "ggufkit.conversion",
    "Converter": "ggufkit.conversion",
    "Engine": "ggufkit.inference.engine",
    "EngineOptions": "ggufkit.inference.options",
    "OutputType": "ggufkit.conversion",
    "QuantizationResult": "ggufkit.quantization.quantize",
    "QuantizeOptions": "ggufkit.quantization.plan",
    "SamplingOptions": "ggufkit.inference.options",
    "convert": "ggufkit.conversion",
    "quantize": "ggufkit.quantization.quantize",
}


def __getattr__(name: str) -> Any:
    """Import a name of the API when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'ggufkit' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
