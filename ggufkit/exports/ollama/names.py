"""Names of models as Ollama reads and checks them: `[host/][namespace/]model[:tag]` (types/model/name.go)."""

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ggufkit.errors import UsageError

DEFAULT_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = "latest"
_PARTS = {
    "host": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,254}"),  # Ollama takes 350, no file system more than 255
    "namespace": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}"),
    "model": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"),
    "tag": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"),
}
_RULES = {
    "host": "up to 255 letters, digits or _ - . :",
    "namespace": "up to 80 letters, digits or _ - (no dot)",
    "model": "up to 80 letters, digits or _ - .",
    "tag": "up to 80 letters, digits or _ - .",
}


@dataclass(frozen=True, slots=True, order=True)
class ModelName:
    """A full name; two that differ only in the case of letters are one model to Ollama."""

    host: str
    namespace: str
    model: str
    tag: str

    @property
    def path(self) -> PurePosixPath:
        """Where its manifest lies below `manifests/`."""
        return PurePosixPath(self.host, self.namespace, self.model, self.tag)

    @property
    def folded(self) -> tuple[str, ...]:
        """What two spellings of one name have in common."""
        return tuple(part.lower() for part in (self.host, self.namespace, self.model, self.tag))

    @property
    def short(self) -> str:
        """The name as `ollama list` prints it: without a default host and namespace, always with its tag."""
        name = f"{self.model}:{self.tag}"
        if self.host.lower() != DEFAULT_HOST:
            return f"{self.host}/{self.namespace}/{name}"
        return name if self.namespace.lower() == DEFAULT_NAMESPACE else f"{self.namespace}/{name}"


def parse_name(text: str) -> ModelName:
    """Read a name, and fill in the default host, namespace and tag.

    Raises:
        UsageError: a part is missing, too long, or holds a character that Ollama does not take there.
    """
    rest, tag = text, DEFAULT_TAG
    if rest.rfind(":") > rest.rfind("/"):
        rest, _, tag = rest.rpartition(":")
    scheme, found, without = rest.partition("://")
    parts = (without if found else scheme).split("/")
    if len(parts) > 3:
        raise UsageError(
            f"{text!r} is no name for a model in Ollama: it has {len(parts)} parts between slashes",
            hint="a name is [HOST/][NAMESPACE/]MODEL[:TAG], such as my-model:q4",
        )
    host, namespace, model = [DEFAULT_HOST, DEFAULT_NAMESPACE][: 3 - len(parts)] + parts
    name = ModelName(host, namespace, model, tag)
    for kind, pattern in _PARTS.items():
        part = getattr(name, kind)
        if not pattern.fullmatch(part):
            raise UsageError(
                f"{text!r} is no name for a model in Ollama: {kind} {part!r} must have {_RULES[kind]}, "
                "and begin with a letter, a digit or _",
                hint="a name is [HOST/][NAMESPACE/]MODEL[:TAG], such as my-model:q4",
            )
    return name


def name_of_path(path: Path) -> ModelName | None:
    """Read a name off the last four parts of a manifest's path; None when they are no name."""
    parts = path.parts[-4:]
    if len(parts) < 4 or not all(p.fullmatch(part) for p, part in zip(_PARTS.values(), parts, strict=True)):
        return None
    return ModelName(*parts)
