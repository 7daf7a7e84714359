"""OpenVINO: the checkpoint exported by optimum, its weights compressed by NNCF to 8 or 4 bits, asymmetrically."""

from pathlib import Path
from typing import Any

from .adapter import Baseline, Job, Model, Recipe
from .causal import CausalModel

RECIPE = Recipe(
    "openvino",
    requirements=(
        "optimum-intel[openvino]==2.2.0",
        "optimum==2.3.0",
        "transformers==5.5.4",
        "openvino==2026.4.1",
        "openvino-tokenizers==2026.4.1.0",
        "nncf==3.4.0",
        "numpy==2.4.6",
    ),
    imports=("torch", "transformers", "openvino", "optimum.intel"),
    # torchvision is of another build than torch, and importing it fails; the other reports each use to its makers
    remove=("torchvision", "openvino-telemetry"),
)
BASELINES = (
    Baseline("openvino-fp16", "OpenVINO, float16 weights", RECIPE, "openvino_models", "fp16", 6.0, prepares=True),
    Baseline("openvino-int8", "OpenVINO, int8 weights", RECIPE, "openvino_models", "int8", 6.0, prepares=True),
    Baseline("openvino-int4", "OpenVINO, int4 weights", RECIPE, "openvino_models", "int4", 6.0, prepares=True),
)
_GROUP = 128


def prepare(job: Job) -> None:
    """Export, compress and save; the export traces the model, which takes more time than the compression."""
    from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig

    settings: dict[str, Any] = {
        "fp16": {"load_in_8bit": False},  # models beyond 10^9 parameters would become int8 unasked
        "int8": {"quantization_config": OVWeightQuantizationConfig(bits=8)},
        # ratio: how much of the layers between the embedding and the head, which stay int8, becomes int4
        "int4": {"quantization_config": OVWeightQuantizationConfig(bits=4, group_size=_GROUP, ratio=1.0, sym=False)},
    }[job.variant]
    model = OVModelForCausalLM.from_pretrained(
        job.checkpoint, export=True, compile=False, local_files_only=True, trust_remote_code=False, **settings
    )
    model.save_pretrained(job.work)


def load(job: Job) -> Model:
    """Compile for the CPU, as its own users do: keys and values are float16, or 8-bit beside compressed weights."""
    from optimum.intel import OVModelForCausalLM

    model: Any = OVModelForCausalLM.from_pretrained(
        job.work,
        export=False,
        local_files_only=True,
        ov_config={
            "INFERENCE_NUM_THREADS": job.threads,  # OMP_NUM_THREADS is not heeded
            "PERFORMANCE_HINT": "LATENCY",
        },
    )
    weights = Path(job.work) / "openvino_model.bin"
    return CausalModel(model, weight_bytes=lambda: weights.stat().st_size if weights.exists() else None)
