"""LM Studio's models: plain files in `<folder>/<publisher>/<model>/`, projectors (`mmproj-…`) beside their models.

From LM Studio's documentation (Import models) and its command-line tool `lms` (src/lmstudioPaths.ts). The folder is
what `settings.json` names as `downloadsFolder`, else `models` in LM Studio's home, which `~/.lmstudio-home-pointer`
names.
"""

import contextlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from ggufkit.errors import GgufFileError, OutputError, UsageError
from ggufkit.exports import placing
from ggufkit.exports.ollama.description import Kind, kind_of
from ggufkit.files import PlannedFile, atomic_name, check_space, tidy
from ggufkit.fitness import read_fit_parts
from ggufkit.gguf_file.reader import GgufHeader, read_header
from ggufkit.homes import expanded, home_folder
from ggufkit.progress import Progress, silent

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}")
_QUANTIZATION = re.compile(r"[-._](I?Q\d\w*|F16|F32|BF16|MXFP4\w*|TQ\d_\d)(?=[-._]|$).*", re.IGNORECASE)
_SPLIT = re.compile(r"-\d{5}-of-\d{5}$")
_OWN_PUBLISHER = "ggufkit"


@dataclass(frozen=True, slots=True)
class Plan:
    """Where each file goes; the first part of a split model comes last."""

    name: str  # publisher/model
    folder: Path
    files: tuple[tuple[Path, Path], ...]


@dataclass(frozen=True, slots=True)
class ExportedFile:
    """A file where LM Studio finds it, and how it came there."""

    path: Path
    way: str  # "reflink", "hard link", "copy" or "already there"
    size: int


def models_folder() -> Path:
    """Say where LM Studio looks for models."""
    home = home_folder() / ".lmstudio"
    with contextlib.suppress(OSError, ValueError):
        home = Path((home_folder() / ".lmstudio-home-pointer").read_text(encoding="utf-8").strip())
    with contextlib.suppress(OSError, ValueError, AttributeError, RecursionError):
        chosen = json.loads((home / "settings.json").read_text(encoding="utf-8")).get("downloadsFolder")
        if isinstance(chosen, str) and chosen:
            return expanded(chosen)
    old = home_folder() / ".cache" / "lm-studio" / "models"
    return old if old.is_dir() and not (home / "models").is_dir() else home / "models"


def plan_export(model: Path, name: str | None, folder: Path, *, projector: Path | None = None) -> Plan:
    """Decide on the names of all files of a model. Reads headers only.

    `name` is `publisher/model`, or `model` alone; without it both are what the file says of itself.

    Raises:
        GgufFileError: a file is missing, malformed, or not the first part of a split model.
        UsageError: the name cannot be that of a folder.
    """
    try:
        headers = _headers(model)
    except OSError as error:
        raise GgufFileError(f"cannot read {model}: {error.strerror}") from error
    publisher, _, own = (name or "").rpartition("/") if name else (_publisher(headers[0]), "", _name(headers[0]))
    publisher = publisher or _OWN_PUBLISHER
    for part in (publisher, own):
        if not _PART.fullmatch(part):
            raise UsageError(
                f"{part!r} cannot be the name of a publisher or a model in LM Studio", hint="name it PUBLISHER/MODEL"
            )
    target = expanded(folder).absolute() / publisher / own
    files = [(header.path, target / _as_gguf(header.path.name)) for header in headers]
    if projector:
        if kind_of(read_header(projector)) is not Kind.PROJECTOR:
            raise GgufFileError(f"{projector} is no projector", hint="`ggufkit convert --mmproj` makes one")
        shown = projector.name if "mmproj" in projector.name.lower() else f"mmproj-{projector.name}"
        files.append((projector, target / _as_gguf(shown)))
    return Plan(f"{publisher}/{own}", target, tuple(files[1:] + files[:1]))


def _headers(model: Path) -> list[GgufHeader]:
    if model.is_dir():
        hint = f"ggufkit quantize Q4_K_M {model}" if (model / "config.json").exists() else None
        raise GgufFileError(f"{model} is a folder, not a GGUF file", hint=hint)
    return read_fit_parts(model)


def export(
    plan: Plan, *, copy: bool = False, overwrite: bool = False, progress: Progress = silent
) -> list[ExportedFile]:
    """Give all files their names in LM Studio's folder, linked where that can be.

    Raises:
        InputError: a file cannot be read, or changes meanwhile.
        OutputError: another file has a name already, or the folder cannot be written.
    """
    done = []
    try:
        plan.folder.mkdir(parents=True, exist_ok=True)
        there = [target for source, target in plan.files if _is_there(source, target, progress)]
        missing = [(source, target) for source, target in plan.files if target not in there]
        for _, target in missing:
            if target.exists() and not overwrite:
                raise OutputError(f"there is another file {target}", hint="--overwrite replaces it")
        if copy or plan.files[0][0].stat().st_dev != plan.folder.stat().st_dev:
            check_space([PlannedFile(target, source.stat().st_size) for source, target in missing])
        for source, target in plan.files:
            if target in there:
                tidy(target)
                done.append(ExportedFile(target, "already there", source.stat().st_size))
                continue
            with atomic_name(target, follow=False) as temporary:
                placed = placing.place(source, temporary, copy=copy, progress=progress)
            done.append(ExportedFile(target, placed.way.value, placed.size))
    except OSError as error:
        raise OutputError(f"cannot write {error.filename or plan.folder}: {error.strerror}") from error
    return done


def _is_there(source: Path, target: Path, progress: Progress) -> bool:
    """Look whether a file has its name already, or a copy of it has."""
    if not target.exists() or target.samefile(source):
        return target.exists()
    same_size = target.is_file() and target.stat().st_size == source.stat().st_size
    return same_size and placing.sha256_of(source, progress) == placing.sha256_of(target, progress, "checking")


def _publisher(header: GgufHeader) -> str:
    said = header.metadata.get("general.organization")
    return _as_name(said) if isinstance(said, str) else _OWN_PUBLISHER


def _name(header: GgufHeader) -> str:
    """Name a model after its file, less its quantization: LM Studio keeps those of one model together."""
    return _as_name(_QUANTIZATION.sub("", _SPLIT.sub("", header.path.stem))) or "model"


def _as_gguf(name: str) -> str:
    """End a name as LM Studio wants it: those of Ollama's blobs, for one, say nothing of their kind."""
    return name if name.lower().endswith(".gguf") else f"{name}.gguf"


def _as_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-.")[:96]
