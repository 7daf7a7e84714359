"""The text models of Qwen-VL: those of Qwen 2 and 3, roped by time, height and width, which for text are one."""

from collections.abc import Iterable

from ggufkit.architectures._blocks import ATTENTION, DECODER, EMBEDDINGS, GATED_MLP, HEAD_NORMS, PRE_NORMS, QKV_BIASES
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, MetadataTable
from ggufkit.architectures.qwen import DEFAULTS, SQUARE, remarks

VL_DEFAULTS = {**DEFAULTS, "rope_theta": 1e6, "rms_norm_eps": 1e-5, "num_key_value_heads": 8}
VL3_DEFAULTS = {**DEFAULTS, "rope_theta": 5e5, "max_position_embeddings": 128000, "head_dim": 128}


def deepstack_layers(config: Config) -> int:
    """Count the blocks to which the vision tower adds features of its own."""
    vision = config.get("vision_config") or (config.get("thinker_config") or {}).get("vision_config") or {}
    return len(vision.get("deepstack_visual_indexes", []))


def qwen2vl_remarks(config: Config) -> Iterable[str]:
    """Warn also of norms: llama.cpp reads no epsilon for this architecture, and takes none."""
    yield from remarks(config)
    yield (
        f"llama.cpp norms this architecture without the model's epsilon of {config['rms_norm_eps']:g}: "
        "its answers differ very slightly from the original's"
    )


DEEPSTACK: MetadataTable = {"n_deepstack_layers": deepstack_layers}

QWEN2VL = ArchSpec(
    name="qwen2vl",
    hf_architectures=("Qwen2VLForConditionalGeneration", "Qwen2VLModel", "Qwen2_5_VLForConditionalGeneration"),
    metadata=(DECODER,),
    tensors=(EMBEDDINGS, PRE_NORMS, ATTENTION, GATED_MLP),
    biases=QKV_BIASES,
    shapes=SQUARE,
    defaults={"qwen2_vl_text": VL_DEFAULTS, "qwen2_5_vl_text": VL_DEFAULTS},
    remarks=qwen2vl_remarks,
)

QWEN3VL = ArchSpec(
    name="qwen3vl",
    hf_architectures=("Qwen3VLForConditionalGeneration",),
    metadata=(DECODER, DEEPSTACK),
    tensors=(EMBEDDINGS, PRE_NORMS, ATTENTION, HEAD_NORMS, GATED_MLP),
    defaults={"qwen3_vl_text": VL3_DEFAULTS},
    remarks=remarks,
)

SPECS = (QWEN2VL, QWEN3VL)
