"""The header of an output, as llama-quantize writes it: the source's metadata, and the keys that quantizing adds."""

from ggufkit.gguf_file.reader import GgufHeader, Scalar, ValueType
from ggufkit.gguf_file.rewrite import NewFile, rewrite
from ggufkit.quantization.importance import ImportanceMatrix
from ggufkit.quantization.plan import QuantizationPlan, stripped

_QUANTIZATION_VERSION = 2  # GGML_QNT_VERSION
_SPLIT_KEYS = ("split.no", "split.count", "split.tensors.count")
_LONGEST_STRING = 127  # bytes: llama-quantize's room for the value of a key that it adds


def lay_out(source: GgufHeader, plan: QuantizationPlan, matrix: ImportanceMatrix | None) -> NewFile:
    """Lay out the file that a plan makes of a source (src/llama-quant.cpp, llama_model_quantize_impl).

    Raises:
        GgufFileError: the source has changed since its header was read.
    """
    added: list[tuple[str, ValueType, Scalar]] = [
        ("general.quantization_version", ValueType.UINT32, _QUANTIZATION_VERSION),
        ("general.file_type", ValueType.UINT32, plan.type.number),
        *((key, *_override(text)) for key, text in plan.overrides),
    ]
    if matrix is not None and matrix.values:
        added.append(("quantize.imatrix.file", ValueType.STRING, _cut(str(matrix.path))))
        if matrix.datasets:
            added.append(("quantize.imatrix.dataset", ValueType.STRING, _cut(matrix.datasets[0])))
        added.append(("quantize.imatrix.entries_count", ValueType.UINT32, len(matrix.values)))
        if matrix.chunks > 0:
            added.append(("quantize.imatrix.chunks_count", ValueType.UINT32, matrix.chunks))
    tensors = [(tensor.name, stripped(tensor.shape), tensor.to) for tensor in plan.tensors]
    return rewrite(source, without=_SPLIT_KEYS, then=added, tensors=tensors)


def _override(text: str) -> tuple[ValueType, Scalar]:
    """Read llama.cpp's notation of a value (`int:32`), as llama-quantize writes it: integers are unsigned."""
    kind, _, value = text.partition(":")
    match kind:
        case "int":
            return ValueType.UINT32, abs(int(value))
        case "float":
            return ValueType.FLOAT32, float(value)
        case "bool":
            return ValueType.BOOL, value == "true"
        case _:
            return ValueType.STRING, value


def _cut(text: str) -> str:
    return text.encode()[:_LONGEST_STRING].decode(errors="ignore")
