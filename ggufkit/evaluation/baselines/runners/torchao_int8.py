"""torchao's int8 through transformers: weights alone, or activations too as they come; the head stays bfloat16."""

from .adapter import Baseline, Job, Model, Recipe
from .causal import CausalModel
from .transformers_models import ACCEPTS, open_checkpoint

RECIPE = Recipe(
    "torchao",
    requirements=("transformers==5.23.0", "torchao==0.18.0", "accelerate==1.15.0", "numpy==2.4.6"),
    imports=("torch", "transformers.modeling_utils", "torchao.quantization", "accelerate"),
    accepts={**ACCEPTS, "torchao": ("0.15", "1"), "accelerate": ("1", "2")},
)
BASELINES = (
    Baseline("torchao-int8", "torchao, int8 weights", RECIPE, "torchao_int8", "weights", 3.0),
    Baseline("torchao-int8-dynamic", "torchao, int8 weights and activations", RECIPE, "torchao_int8", "dynamic", 3.0),
)


def load(job: Job) -> Model:
    """Quantize while loading."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    config = Int8WeightOnlyConfig() if job.variant == "weights" else Int8DynamicActivationInt8WeightConfig()
    return CausalModel(open_checkpoint(job, "bfloat16", quantization_config=TorchAoConfig(config), device_map="cpu"))
