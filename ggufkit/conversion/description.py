"""What a file says about its model in `general.*` keys: name, author, licence, languages, sampling defaults, origin.

The `gguf` package reads them from the model card, config.json, generation_config.json and the folder's name, with the
same heuristics as llama.cpp's converter; so the same folder gives the same name as there. Two things are different: of
a snapshot in the hub's cache the repository's name counts, and not the commit that the folder is called by; and what
is malformed is left out with a warning, where llama.cpp's converter stops.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np
from gguf import GGUFWriter

from ggufkit.checkpoints.fingerprint import fingerprint, origin
from ggufkit.gguf_file.writer import Value, lay_out

VERSION = "ggufkit.version"
SOURCE_FINGERPRINT = "ggufkit.source.fingerprint"
SOURCE_REPOSITORY = "ggufkit.source.repository"
SOURCE_REVISION = "ggufkit.source.revision"


def general_metadata(
    folder: Path,
    tensors: Sequence[tuple[str, tuple[int, ...]]],
    *,
    kind: Literal["model", "adapter"] = "model",
    warn: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Describe the model, or the adapter, in a folder; `tensors` are those of the GGUF file, for the size label.

    What cannot be read or written is left out, and `warn` is told.
    """
    logging.getLogger("metadata").setLevel(logging.CRITICAL)  # it narrates its heuristics
    name = _name(folder)
    counts = count_parameters(tensors)
    card = _read(gguf.Metadata.load_model_card, folder, "README.md", warn)
    values = _described(folder, name, card, counts, kind, warn)
    if values is None and card:
        warn(f"{folder / 'README.md'}: what it says about the model is malformed, and left out")
        values = _described(folder, name, {}, counts, kind, warn)
    return {"general.type": kind, "general.name": name} if values is None else values


def own_version() -> str:
    """Return ggufkit's version; looked up late, for the package itself names this module to type checkers."""
    return str(import_module("ggufkit").__version__)


def provenance(folder: Path) -> dict[str, str]:
    """Say which ggufkit made the file, and of which checkpoint: nothing that depends on where the folder lies.

    Raises:
        CheckpointError: a file of the checkpoint cannot be read.
    """
    source = origin(folder)
    where = {SOURCE_REPOSITORY: source.repository, SOURCE_REVISION: source.revision} if source else {}
    return {VERSION: own_version(), SOURCE_FINGERPRINT: fingerprint(folder), **where}


def count_parameters(tensors: Sequence[tuple[str, tuple[int, ...]]]) -> tuple[int, int, int, int]:
    """Count parameters for the size label: total (negative for an adapter), shared, of one expert, and the experts."""
    writer = GGUFWriter(None, "unused")
    for name, shape in tensors:
        writer.add_tensor_info(name, shape, np.dtype(np.float32), 0, raw_dtype=gguf.GGMLQuantizationType.F32)
    total, shared, one_expert, experts = writer.get_total_parameter_count()
    return total, shared, one_expert, experts


def _name(folder: Path) -> str:
    source = origin(folder)
    return source.repository.rpartition("/")[2] if source else folder.resolve().name


def _read(load: Callable[[Path], Any], folder: Path, what: str, warn: Callable[[str], None]) -> dict[str, Any]:
    try:
        content = load(folder)
    except Exception as error:  # noqa: BLE001 - it parses strangers' YAML and JSON with no errors of its own
        line = (str(error).splitlines() or [type(error).__name__])[0]
        said = "".join(character if character.isprintable() else "?" for character in line[:200])
        warn(f"{folder / what} is malformed, and left out: {said}")
        return {}
    return content if isinstance(content, dict) else {}


def _described(
    folder: Path,
    name: str,
    card: Mapping[str, Any],
    counts: tuple[int, int, int, int],
    kind: str,
    warn: Callable[[str], None],
) -> dict[str, Any] | None:
    """Collect the values; None when the card makes that impossible."""
    config = _read(gguf.Metadata.load_hf_parameters, folder, "config.json", warn)
    if (source := origin(folder)) and "_name_or_path" not in config:
        config = {**config, "_name_or_path": source.repository}
    writer = GGUFWriter(None, "unused")
    try:
        it = gguf.Metadata.apply_metadata_heuristic(gguf.Metadata(), dict(card), config, Path(name), counts[0])
        it.name = it.name or name
        for key, value in _sampling(folder, warn).items():
            setattr(it, key, value)
        if it.size_label is None and counts[0] > 0:
            it.size_label = gguf.size_label(*counts)
        writer.add_type(kind)
        it.set_gguf_meta_model(writer)
    except Exception:  # noqa: BLE001 - as above
        return None
    values = {}
    for key, value in writer.kv_data[0].items():
        if key == "general.architecture":
            continue
        try:
            lay_out("unused", {key: (found := Value(value.value, value.type, value.sub_type))}, [])
        except Exception:  # noqa: BLE001 - a value of the wrong type comes out only when it is written
            warn(f"{folder}: {key} would be {value.value!r:.60}, which is malformed, and left out")
        else:
            values[key] = found
    return values


def _sampling(folder: Path, warn: Callable[[str], None]) -> dict[str, Any]:
    """Read the sampling defaults, by the names that the `gguf` package has for them."""
    content = _read(_generation_config, folder, "generation_config.json", warn)
    names = {"temperature": "temp"}
    known = "sequence top_k top_p min_p xtc_probability xtc_threshold temperature penalty_last_n penalty_repeat"
    return {
        f"sampling_{names.get(key, key)}": content[key]
        for key in (*known.split(), "mirostat", "mirostat_tau", "mirostat_eta")
        if content.get(key) is not None
    }


def _generation_config(folder: Path) -> Any:
    from ggufkit.checkpoints.config import read_json_object

    path = folder / "generation_config.json"
    return read_json_object(path) if path.is_file() else {}
