"""The types of the tensors: those that no operation of llama.cpp takes as weights make it read what is not there."""

from collections.abc import Iterator

from ggufkit.findings import Finding, Severity
from ggufkit.gguf_file.reader import GgufHeader
from ggufkit.gguf_file.tensor_types import TensorType

# Whole numbers, doubles, and the two types in which only activations are kept.
_NO_WEIGHTS = {
    TensorType.I8,
    TensorType.I16,
    TensorType.I32,
    TensorType.I64,
    TensorType.F64,
    TensorType.Q8_1,
    TensorType.Q8_K,
}
_TABLES = ("d2t", "t2d", "tid2eid")  # of token ids, which are whole numbers
_NORMS = ("_norm.weight", "_norm.bias", "norm.weight", "norm.bias")


def check_tensors(header: GgufHeader) -> Iterator[Finding]:
    """Check types by what the names say that the tensors are."""
    for tensor in header.tensors:
        if tensor.type in _NO_WEIGHTS:
            if not any(part in tensor.name for part in _TABLES):
                yield Finding(
                    Severity.UNFIT, f"is of type {tensor.type.name}, which llama.cpp cannot compute with", tensor.name
                )
        elif tensor.name.endswith(_NORMS) and tensor.type is not TensorType.F32:
            yield Finding(Severity.UNFIT, f"is of type {tensor.type.name}, but norms must be F32", tensor.name)
