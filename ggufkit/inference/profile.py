"""Profiles: the settings with which a model runs fastest on this machine, as `ggufkit tune` measured them.

They are JSON files in `$GGUFKIT_CACHE/profiles` (`~/.cache/ggufkit/profiles`), one for each model, machine and build
of llama.cpp. The model counts by the names, shapes and types of its tensors, which are what its speed depends on:
fine-tunes of one model in one quantization share a profile. The machine counts by its CPU and how much of it is ours.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ggufkit.errors import GgufkitError, InputError
from ggufkit.files import write_atomically
from ggufkit.gguf_file.reader import read_header
from ggufkit.homes import expanded
from ggufkit.inference.attention import PLAIN_TYPES
from ggufkit.inference.options import CacheType, EngineOptions, FlashAttention, LoadMode
from ggufkit.llamacpp import cpu, find

SCHEMA_VERSION = 1
_KIND = "ggufkit profile"
_ENUMS = {
    "flash_attention": FlashAttention,
    "cache_type_k": CacheType,
    "cache_type_v": CacheType,
    "load_mode": LoadMode,
}
TUNED = ("threads", "threads_batch", "micro_batch_size", *_ENUMS)  # what a profile may hold


@dataclass(frozen=True, slots=True)
class Place:
    """What a profile is for: short hashes of model, machine and build, and the names behind them."""

    model: str
    machine: str
    build: str

    @property
    def path(self) -> Path:
        """Return where the profile is kept."""
        return folder() / f"{self.model}-{self.machine}-{self.build}.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Settings, and what they were measured to be worth.

    Attributes:
        settings: keyword arguments of `EngineOptions`, only those that differ from its defaults.
        model: file name of the model that was measured.
        machine: the CPU, and how many cores could be used.
        measured: what `tune` found, for people; speeds in tokens per second.
        path: the file that it was read from.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    model: str = ""
    machine: str = ""
    measured: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None

    def fill_in(self, given: dict[str, Any]) -> dict[str, Any]:
        """Return what was given, and this profile's settings for the rest."""
        settings = dict(self.settings)
        if "threads" in given:  # then prompts are to be read with as many
            settings.pop("threads_batch", None)
        # Quantized values need fused attention, and what is given comes first.
        if given.get("cache_type_v", CacheType.F16) not in PLAIN_TYPES:
            if settings.get("flash_attention") is FlashAttention.OFF:
                del settings["flash_attention"]
        elif given.get("flash_attention") is FlashAttention.OFF and settings.get("cache_type_v") not in PLAIN_TYPES:
            settings.pop("cache_type_v", None)
        if "batch_size" in given and settings.get("micro_batch_size", 0) > given["batch_size"]:
            del settings["micro_batch_size"]
        return {**settings, **given}

    def save(self, path: Path) -> None:
        """Write the profile. Raises OutputError."""
        path.parent.mkdir(parents=True, exist_ok=True)
        document = {"schema_version": SCHEMA_VERSION, "kind": _KIND, **asdict(self)}
        del document["path"]
        write_atomically(path, json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n")


def folder() -> Path:
    """Return the folder of the profiles."""
    return find.cache_folder() / "profiles"


def find_profile(model: Path, choice: str = "auto") -> Profile | None:
    """Return the profile to run a model with: `auto` for what was tuned here, `none`, or the path of a file.

    Raises:
        InputError: the file named cannot be used.
    """
    if choice == "none":
        return None
    if choice != "auto":
        return load(expanded(choice))
    try:
        here = f"*-{machine_hash()}-{build_hash()}.json"
        if not any(folder().glob(here)):
            return None  # without reading the header, which takes tenths of a second for large vocabularies
        path = place(model).path
        return load(path) if path.exists() else None
    except (GgufkitError, OSError):
        return None  # whoever opens the model will say what is wrong with it


def load(path: Path) -> Profile:
    """Read a profile.

    Raises:
        InputError: there is none, or it holds what cannot be.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read the profile {path}: {error.strerror}", hint="ggufkit tune MODEL") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"the profile {path} is not JSON: {error}", hint="ggufkit tune MODEL") from error
    if not isinstance(document, dict) or document.get("kind") != _KIND:
        raise InputError(f"{path} is JSON, but not a profile of ggufkit", hint="ggufkit tune MODEL writes them")
    if document.get("schema_version") != SCHEMA_VERSION:
        raise InputError(f"the profile {path} is of another version of ggufkit", hint="ggufkit tune MODEL")
    try:
        raw = document["settings"]
        if unknown := raw.keys() - set(TUNED):
            raise ValueError(f"unknown settings: {', '.join(sorted(unknown))}")
        settings: dict[str, Any] = {name: _ENUMS.get(name, _whole)(value) for name, value in raw.items()}
        EngineOptions(**settings)
    except (KeyError, AttributeError, TypeError, ValueError, GgufkitError) as error:
        raise InputError(f"the profile {path} does not make sense: {error}", hint="ggufkit tune MODEL") from error
    texts = {name: str(document.get(name, "")) for name in ("model", "machine")}
    return Profile(settings=settings, measured=document.get("measured") or {}, path=path, **texts)


def differing(options: EngineOptions) -> dict[str, Any]:
    """Return the settings of `options` that a profile may hold and that are not the default."""
    default = EngineOptions()
    values = {option.name: getattr(options, option.name) for option in fields(EngineOptions)}
    return {name: values[name] for name in TUNED if values[name] != getattr(default, name)}


def place(model: Path) -> Place:
    """Return what a profile for a model on this machine is filed under.

    Raises:
        GgufFileError: the model's header cannot be read.
        MissingDependencyError: there is no build.
    """
    header = read_header(model)
    tensors = [(tensor.name, tensor.shape, tensor.type.name) for tensor in header.tensors]
    architecture = header.metadata.get("general.architecture")
    return Place(_hash(architecture, sorted(tensors)), machine_hash(), build_hash())


def machine() -> str:
    """Describe this machine as far as speed depends on it."""
    return f"{cpu.model_name()}, {cpu.usable_cores()} cores, {len(cpu.allowed_cpus())} threads"


def machine_hash() -> str:
    """Return a short hash of this machine's description."""
    return _hash(machine())


def build_hash() -> str:
    """Return a short hash of the build of llama.cpp. Raises MissingDependencyError when there is none."""
    build = find.find()
    stamp = build.stamp()
    library = build.library("llama").stat()
    return _hash(stamp.get("version"), stamp.get("cmake_args"), library.st_size, library.st_mtime_ns)


def _hash(*values: object) -> str:
    return hashlib.blake2b(json.dumps(values, default=str).encode(), digest_size=6).hexdigest()


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{value!r} is not a whole number")
    return value
