"""ggufkit: from a Hugging Face checkpoint to a GGUF model that runs well on an ordinary machine.

The Python API; what is heavy is imported when it is first used:

    ggufkit.pull_model("owner/repo:Q4_K_M")        a model on the hub -> its path on this machine
    ggufkit.inspect_gguf(path)                     what a GGUF model is, from its headers alone
    ggufkit.compare(left, right)                   what two GGUF models differ in, by meaning
    ggufkit.convert(source, output, outtype=...)   checkpoint folder -> GGUF file
    ggufkit.plan(source)                           what every type of a model would cost, from its headers alone
    ggufkit.quantize(source, "Q4_K_M", output)     GGUF file or checkpoint folder -> smaller GGUF file
    ggufkit.optimize(source, jobs, texts, options) the best file of a size: each tensor has the type that it needs
    ggufkit.make_imatrix(output, model=..., ...)   which weights matter, measured on a text
    ggufkit.verify(model, source)                  is it what that checkpoint should become?
    ggufkit.evaluate(base, models, texts)          what quantizing has cost, measured against the original
    ggufkit.convert_lora(adapter, base, output)    PEFT adapter -> GGUF adapter
    ggufkit.merge_lora(base, adapter, output)      an adapter added to the weights
    ggufkit.export_ollama(model, name)             a model into Ollama's store, without Ollama
    ggufkit.Engine.open(model)                     a model ready to generate
    ggufkit.ChatSession(engine=..., template=...)  a conversation with it
    ggufkit.tune(model)                            the settings that run it fastest on this machine
    ggufkit.Server(model, ServeOptions())          OpenAI's API for it: listen(), then run(asyncio.Event())
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ggufkit.allocation.optimize import optimize
    from ggufkit.allocation.options import OptimizeOptions
    from ggufkit.allocation.results import Optimization
    from ggufkit.checkpoints.hub_pull import PullOptions, pull_model
    from ggufkit.conversion import ConversionResult, Converter, OutputType, convert
    from ggufkit.conversion.adapters import AdapterResult, MergeResult, convert_lora, merge_lora
    from ggufkit.evaluation.difference import Difference, compare
    from ggufkit.evaluation.evaluate import EvaluationOptions, evaluate
    from ggufkit.evaluation.evaluation_results import Evaluation
    from ggufkit.evaluation.results import Verification
    from ggufkit.evaluation.verify import verify
    from ggufkit.exports.ollama import ExportOptions, export_ollama
    from ggufkit.inference.engine import Engine
    from ggufkit.inference.options import EngineOptions, SamplingOptions
    from ggufkit.inference.serving import ServeOptions, Server
    from ggufkit.inference.session import ChatSession
    from ggufkit.inference.templates import ChatTemplate
    from ggufkit.inference.tuning import TuneOptions, tune
    from ggufkit.inference.tuning.result import TuneResult
    from ggufkit.inspection.check import CheckResult, check
    from ggufkit.inspection.facts import Inspection
    from ggufkit.inspection.gguf import inspect_gguf
    from ggufkit.one_pass import quantize
    from ggufkit.planning.plan import ModelPlan, PlanOptions, plan
    from ggufkit.quantization.make_imatrix import Calibration, ImatrixOptions, ImatrixResult, make_imatrix
    from ggufkit.quantization.plan import QuantizeOptions
    from ggufkit.quantization.quantize import QuantizationResult

__all__ = [
    "AdapterResult",
    "Calibration",
    "ChatSession",
    "ChatTemplate",
    "CheckResult",
    "ConversionResult",
    "Converter",
    "Difference",
    "Engine",
    "EngineOptions",
    "Evaluation",
    "EvaluationOptions",
    "ExportOptions",
    "ImatrixOptions",
    "ImatrixResult",
    "Inspection",
    "MergeResult",
    "ModelPlan",
    "Optimization",
    "OptimizeOptions",
    "OutputType",
    "PlanOptions",
    "PullOptions",
    "QuantizationResult",
    "QuantizeOptions",
    "SamplingOptions",
    "ServeOptions",
    "Server",
    "TuneOptions",
    "TuneResult",
    "Verification",
    "__version__",
    "check",
    "compare",
    "convert",
    "convert_lora",
    "evaluate",
    "export_ollama",
    "inspect_gguf",
    "make_imatrix",
    "merge_lora",
    "optimize",
    "plan",
    "pull_model",
    "quantize",
    "tune",
    "verify",
]

_HOMES = {
    "AdapterResult": "ggufkit.conversion.adapters",
    "Calibration": "ggufkit.quantization.make_imatrix",
    "ChatSession": "ggufkit.inference.session",
    "ChatTemplate": "ggufkit.inference.templates",
    "CheckResult": "ggufkit.inspection.check",
    "ConversionResult": "ggufkit.conversion",
    "Converter": "ggufkit.conversion",
    "Difference": "ggufkit.evaluation.difference",
    "Engine": "ggufkit.inference.engine",
    "EngineOptions": "ggufkit.inference.options",
    "Evaluation": "ggufkit.evaluation.evaluation_results",
    "EvaluationOptions": "ggufkit.evaluation.evaluate",
    "ExportOptions": "ggufkit.exports.ollama",
    "ImatrixOptions": "ggufkit.quantization.make_imatrix",
    "ImatrixResult": "ggufkit.quantization.make_imatrix",
    "Inspection": "ggufkit.inspection.facts",
    "MergeResult": "ggufkit.conversion.adapters",
    "ModelPlan": "ggufkit.planning.plan",
    "Optimization": "ggufkit.allocation.results",
    "OptimizeOptions": "ggufkit.allocation.options",
    "OutputType": "ggufkit.conversion",
    "PlanOptions": "ggufkit.planning.plan",
    "PullOptions": "ggufkit.checkpoints.hub_pull",
    "QuantizationResult": "ggufkit.quantization.quantize",
    "QuantizeOptions": "ggufkit.quantization.plan",
    "SamplingOptions": "ggufkit.inference.options",
    "ServeOptions": "ggufkit.inference.serving",
    "Server": "ggufkit.inference.serving",
    "TuneOptions": "ggufkit.inference.tuning",
    "TuneResult": "ggufkit.inference.tuning.result",
    "Verification": "ggufkit.evaluation.results",
    "check": "ggufkit.inspection.check",
    "compare": "ggufkit.evaluation.difference",
    "convert": "ggufkit.conversion",
    "convert_lora": "ggufkit.conversion.adapters",
    "evaluate": "ggufkit.evaluation.evaluate",
    "export_ollama": "ggufkit.exports.ollama",
    "inspect_gguf": "ggufkit.inspection.gguf",
    "make_imatrix": "ggufkit.quantization.make_imatrix",
    "merge_lora": "ggufkit.conversion.adapters",
    "optimize": "ggufkit.allocation.optimize",
    "plan": "ggufkit.planning.plan",
    "pull_model": "ggufkit.checkpoints.hub_pull",
    "quantize": "ggufkit.one_pass",
    "tune": "ggufkit.inference.tuning",
    "verify": "ggufkit.evaluation.verify",
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
