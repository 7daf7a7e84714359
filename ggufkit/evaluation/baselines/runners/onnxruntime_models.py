"""ONNX Runtime: the checkpoint exported by optimum, in float32, or with weights and activations as 8-bit integers."""

from pathlib import Path
from typing import Any

from .adapter import Baseline, Job, Model, Recipe
from .causal import CausalModel

# optimum's exporter does not know transformers 5, hence an environment of its own
RECIPE = Recipe(
    "onnxruntime",
    requirements=(
        "optimum-onnx==0.1.0",
        "optimum==2.1.0",
        "transformers==4.57.6",
        "onnxruntime==1.31.1",
        "onnx==1.23.2",
        "numpy==2.4.6",
    ),
    imports=("torch", "transformers", "onnxruntime", "optimum.onnxruntime"),
)
# Exporting holds the weights of torch and those of the graph at the same time, both in float32.
BASELINES = (
    Baseline("onnxruntime-fp32", "ONNX Runtime, float32", RECIPE, "onnxruntime_models", "fp32", 9.0, prepares=True),
    Baseline(
        "onnxruntime-int8", "ONNX Runtime, dynamic int8", RECIPE, "onnxruntime_models", "int8", 9.0, prepares=True
    ),
)
_GRAPH = "model.onnx"
_LARGEST_FILE = 1_500_000_000  # bytes: protobuf ends at 2 GB, beyond which weights lie in a file beside the graph


def prepare(job: Job) -> None:
    """Export with keys and values as inputs and outputs; quantize the graph."""
    from optimum.onnxruntime import ORTModelForCausalLM

    folder = Path(job.work)
    exported = folder / "exported" if job.variant == "int8" else folder
    model = ORTModelForCausalLM.from_pretrained(job.checkpoint, export=True, local_files_only=True)
    model.save_pretrained(exported)
    del model
    if job.variant == "int8":
        _quantize(exported, folder)


def _quantize(exported: Path, folder: Path) -> None:
    """Quantize by ONNX Runtime itself, and leave nothing else in `folder`.

    Its function keeps to products with constant matrices. optimum's quantizer takes the others too, the angles of the
    rotary embedding among them: position 500 is no longer told from 501 then, and long texts are not understood.
    """
    import shutil

    from onnxruntime.quantization import QuantType, quantize_dynamic

    size = sum(path.stat().st_size for path in exported.iterdir())
    quantize_dynamic(
        exported / _GRAPH,
        folder / _GRAPH,
        per_channel=True,
        weight_type=QuantType.QInt8 if _has_vnni() else QuantType.QUInt8,
        use_external_data_format=size > _LARGEST_FILE,
    )
    for path in exported.glob("*.json"):
        path.replace(folder / path.name)
    shutil.rmtree(exported)


def _has_vnni(cpu: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether sums of 8-bit products fit: without VNNI, those of signed weights saturate, and all answers are wrong."""
    try:
        return "vnni" in cpu.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


def load(job: Job) -> Model:
    """Open a session with the graph."""
    import onnxruntime
    from optimum.onnxruntime import ORTModelForCausalLM

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job.threads  # OMP_NUM_THREADS is not heeded
    options.inter_op_num_threads = 1
    model: Any = ORTModelForCausalLM.from_pretrained(
        job.work, file_name=_GRAPH, session_options=options, local_files_only=True
    )
    return CausalModel(model, weight_bytes=lambda: _graph_bytes(Path(job.work)))


def _graph_bytes(folder: Path) -> int:
    """Count the graph with its weights, which are nearly all of it."""
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file() and path.name.startswith(_GRAPH))
