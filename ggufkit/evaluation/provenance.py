"""What every document of measurements begins with: what it is, when and by which programs it was made, and where."""

import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from ggufkit.llamacpp import cpu


def provenance(
    kind: str, schema_version: int, *, version: str, build: Mapping[str, Any], command: str
) -> dict[str, Any]:
    """Make the first keys of the document: `version` is ggufkit's, `build` which llama.cpp ran; memory in bytes."""
    return {
        "schema_version": schema_version,
        "kind": kind,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "ggufkit": version,
        "llama_cpp": dict(build),
        "python": platform.python_version(),
        "command": command,
        "machine": {
            "cpu": cpu.model_name(),
            "cores": cpu.usable_cores(),
            "memory": cpu.usable_memory(),
            "system": cpu.system_name(),
        },
    }
