"""Files that tell of a quantization where config.json does not: those of AutoGPTQ, AutoAWQ and ModelOpt."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ggufkit.checkpoints.config import read_json_object
from ggufkit.checkpoints.source_quantization import modelopt

_FILES = {"quantize_config.json": "gptq", "quant_config.json": "awq"}


def read_settings(folder: Path) -> Mapping[str, Any]:
    """Read what such a file says, as a config.json with a `quantization_config`; empty when there is no such file.

    Raises:
        CheckpointError: the file is no JSON object.
    """
    for name, method in _FILES.items():
        if (path := folder / name).is_file():
            # AutoGPTQ's keys are those of config.json; AutoAWQ's differ, and are known beside them
            return {"quantization_config": {"quant_method": method, **read_json_object(path)}}
    return modelopt.read_settings(folder)
