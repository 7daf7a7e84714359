"""PyTorch's own dynamic quantization: every matrix as int8 (or float16), activations quantized as they come."""

import warnings
from typing import Any

from .adapter import Baseline, CannotRunError, Job, Model
from .causal import CausalModel, saved_bytes
from .transformers_models import RECIPE, open_checkpoint

BASELINES = (
    Baseline("torch-int8", "PyTorch, dynamic int8", RECIPE, "torch_dynamic", "qint8", 5.0),
    Baseline("torch-fp16", "PyTorch, dynamic float16", RECIPE, "torch_dynamic", "float16", 6.0),
)


def load(job: Job) -> Model:
    """Load in float32, and replace the linear layers in place, the head among them."""
    import torch

    engines = torch.backends.quantized.supported_engines
    engine = next((name for name in ("x86", "fbgemm", "qnnpack") if name in engines), None)
    if engine is None or (engine == "qnnpack" and job.variant == "float16"):
        raise CannotRunError(f"this build of torch has no kernels for it on this processor (it has {engines})")
    torch.backends.quantized.engine = engine
    model = open_checkpoint(job, "float32")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.ao.quantization.quantize_dynamic(
            model, {torch.nn.Linear}, dtype=getattr(torch, job.variant), inplace=True
        )
    return CausalModel(model, weight_bytes=lambda: _weight_bytes(model))


def _weight_bytes(model: Any) -> int | None:
    """Count what is saved; float16 matrices are saved as float32, but held as what they are."""
    import torch

    saved = saved_bytes(model)
    packed = [it for it in model.modules() if isinstance(it, torch.ao.nn.quantized.dynamic.Linear)]
    wide = sum(2 * it.weight().numel() for it in packed if it.weight().dtype == torch.float32)
    return None if saved is None else saved - wide
