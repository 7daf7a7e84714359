"""Malformed safetensors files: our reader against the library's own, which is written in another language."""

from pathlib import Path

import safetensors_mutants
from memory_peak import MemoryPeak
from safetensors import safe_open

from ggufkit.checkpoints.safetensors import SafetensorsFile
from ggufkit.errors import CheckpointError
from soak import Row, Trial

# Where we are stricter on purpose, by what our message says.
STRICTER = (
    "does not start with '{'",  # the format says so, and the library forgives a space
    "a key stands twice",  # the library takes the last
    "has the unknown element type",  # less than a byte, or of an encoding that no GGUF type has
    "needs dtype, shape and data_offsets",  # the library also takes them as a list
    "holds more than that of any model",
)
_LARGEST_AXIS = 2**63


def verdicts(path: Path) -> tuple[str | None, str | None]:
    """Tell what the library and what our reader have against a file; None for nothing. Other exceptions pass."""
    library = ours = None
    try:
        with safe_open(path, framework="numpy") as file:
            held = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no mapping
    except Exception as error:  # noqa: BLE001 - it has a few
        library, held = f"{type(error).__name__}: {error}", {}
    try:
        mine = SafetensorsFile(path)
    except CheckpointError as error:
        ours = str(error)
    else:
        mine.close()
        if library is None and {name: tensor.shape for name, tensor in mine.tensors.items()} != held:
            ours = "other tensors than the library's"
    return library, ours


def stricter_on_purpose(message: str) -> bool:
    return any(reason in message for reason in STRICTER) or any(
        number.strip("[](),").isdigit() and int(number.strip("[](),")) >= _LARGEST_AXIS for number in message.split()
    )


def _measure(trial: Trial) -> None:
    path = trial.folder / "model.safetensors"
    memory = MemoryPeak()
    for case in trial.cases():
        path.write_bytes(safetensors_mutants.mutant(trial.random(case)))
        try:
            library, ours = verdicts(path)
        except Exception as error:  # noqa: BLE001 - this is what must not come
            trial.broken(case, f"{type(error).__name__}: {error}")
            continue
        if library is None and ours is None:
            trial.add("accepted by both")
        elif library is None and ours is not None:
            if stricter_on_purpose(ours):
                trial.add("refused by us alone, on purpose")
            else:
                trial.broken(case, f"refused by us alone: {ours}")
        elif ours is None:
            trial.broken(case, f"accepted by us alone; the library says {library}")
    trial.worst("MiB of memory", memory.grown() / 2**20, limit=300)


ROWS = [
    Row(
        "safetensors-mutants",
        "10,000 random safetensors mutants",
        "the library's verdict, or a stricter one that we name; 0 tracebacks, < 300 MiB",
        _measure,
        count=10_000,
        quick=1500,
    )
]
