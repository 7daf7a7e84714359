"""Intel Neural Compressor: 4-bit weights by rounding (RTN), GPTQ or AWQ, which a CPU computes with in float32.

What it packs is small on disk only: each matrix is unpacked at its first use, and the copy kept beside it.
"""

import os
from typing import Any

from .adapter import Baseline, CannotRunError, Job, Model, Recipe
from .causal import CausalModel
from .transformers_models import open_checkpoint

RECIPE = Recipe(
    "neural-compressor",
    requirements=(
        "neural-compressor[pt]==3.10",
        "transformers==5.23.0",
        "accelerate==1.15.0",
        "torchao==0.18.0",
        "numpy==2.4.6",
    ),
    imports=("torch", "transformers", "neural_compressor.torch.quantization"),
)
# Calibrating holds the float32 weights twice, and the activations of all rows.
BASELINES = (
    Baseline(
        "inc-rtn4", "Intel Neural Compressor, RTN 4-bit", RECIPE, "neural_compressor_models", "rtn", 9.0, prepares=True
    ),
    Baseline(
        "inc-gptq4",
        "Intel Neural Compressor, GPTQ 4-bit",
        RECIPE,
        "neural_compressor_models",
        "gptq",
        10.0,
        prepares=True,
    ),
    Baseline(
        "inc-awq4", "Intel Neural Compressor, AWQ 4-bit", RECIPE, "neural_compressor_models", "awq", 10.0, prepares=True
    ),
)
_SCHEME = {"bits": 4, "group_size": 128, "use_sym": False}  # the same for all three; the head stays float32


def prepare(job: Job) -> None:
    """Quantize and save; GPTQ and AWQ see texts other than those that are scored."""
    import torch
    from neural_compressor.torch.quantization import AWQConfig, GPTQConfig, RTNConfig, convert
    from neural_compressor.torch.quantization import prepare as observe

    os.chdir(job.work)  # it leaves a folder for its logs in the one where it runs
    config = {"rtn": RTNConfig, "gptq": GPTQConfig, "awq": AWQConfig}[job.variant](**_SCHEME)
    rows = [torch.tensor([list(row)]) for row in job.calibration]
    if not rows:
        raise CannotRunError("there is no text to calibrate with")
    model: Any = observe(open_checkpoint(job, "float32"), config, example_inputs=rows[0])
    if job.variant != "rtn":
        with torch.no_grad():
            for row in rows:
                model(row)
    model = convert(model)
    model.save(_folder(job))


def load(job: Job) -> Model:
    """Put the packed weights into a model in float32, as its own loader wants it."""
    from neural_compressor.torch.quantization import load as load_packed

    os.chdir(job.work)
    model: Any = load_packed(_folder(job), original_model=open_checkpoint(job, "float32"))
    return CausalModel(model.eval())


def _folder(job: Job) -> str:
    return os.path.join(job.work, "packed")  # noqa: PTH118 - its functions take a text
