"""Which checkpoint is this? A hash that takes milliseconds, and the revision when the hub's cache tells it."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from ggufkit.errors import CheckpointError

_WEIGHTS = ("*.safetensors", "*.bin")
_DESCRIPTIONS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
)
_SAMPLES, _SAMPLE_BYTES = 64, 4096


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a checkpoint folder comes from, if it lies in the hub's cache: `organization/name`, and the commit."""

    repository: str
    revision: str


def fingerprint(folder: Path) -> str:
    """Hash what tells one checkpoint from another, the same wherever the folder lies: `sha256:` and 64 digits.

    Of the small files everything is hashed; of files with weights their names, their sizes, and 64 samples of 4 KiB,
    evenly spaced, of which the first holds the beginning of the header.

    Raises:
        CheckpointError: a file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        for name in _DESCRIPTIONS:
            if (folder / name).is_file():
                content = (folder / name).read_bytes()
                digest.update(f"{name} {len(content)}\n".encode())
                digest.update(content)
        for path in sorted(path for pattern in _WEIGHTS for path in folder.glob(pattern)):
            _sample(path, digest)
    except OSError as error:
        raise CheckpointError(f"cannot read {error.filename}: {error.strerror}") from error
    return f"sha256:{digest.hexdigest()}"


def origin(folder: Path) -> Origin | None:
    """Read repository and revision off the path of a snapshot in the hub's cache; None for any other folder."""
    path = folder.absolute()
    if path.parent.name == "snapshots" and path.parents[1].name.startswith("models--"):
        return Origin(path.parents[1].name.removeprefix("models--").replace("--", "/"), path.name)
    return None


def _sample(path: Path, digest: "hashlib._Hash") -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(descriptor).st_size
        digest.update(f"{path.name} {size}\n".encode())
        for index in range(_SAMPLES):
            digest.update(os.pread(descriptor, _SAMPLE_BYTES, size * index // _SAMPLES))
    finally:
        os.close(descriptor)
