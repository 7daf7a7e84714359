"""A GGUF file as the F32 file that it means: every tensor decoded by the `gguf` package."""

from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType, quants


def write(source: Path, target: Path) -> Path:
    """Decode every tensor of `source`; the metadata stay, but for the file's type."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, str(reader.fields["general.architecture"].contents()))
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key in ("general.architecture", "general.file_type"):
            continue
        kind, element = field.types[0], field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(key, field.contents(), kind, sub_type=element)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, values(tensor))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def values(tensor: gguf.ReaderTensor) -> np.ndarray:
    """Decode a tensor to float32, in its shape, outermost axis first."""
    if tensor.tensor_type == GGMLQuantizationType.F32:
        return np.array(tensor.data)
    decoded = quants.dequantize(np.array(tensor.data), tensor.tensor_type)
    return decoded.reshape([int(size) for size in reversed(tensor.shape)])
