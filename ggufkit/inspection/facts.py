"""What can be said of a model without running it: the values that `inspect` prints, whatever they were read from."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class TypeShare:
    """How much of a model one tensor type holds."""

    type: str
    tensors: int
    elements: int
    bytes: int


@dataclass(frozen=True, slots=True)
class TensorFacts:
    """One tensor; `shape` has the order of its file: in GGUF the contiguous axis first, in a checkpoint last."""

    name: str
    type: str
    shape: tuple[int, ...]
    bytes: int
    file: str


@dataclass(frozen=True, slots=True)
class SpecialToken:
    """A token with a part to play; `id` may lie outside of the vocabulary, `text` is None then."""

    role: str  # "bos", "eos", "eot" …
    id: int
    text: str | None


@dataclass(frozen=True, slots=True)
class VocabularyFacts:
    """The vocabulary. `add_bos` and `add_eos` are None where the file leaves them to the kind of tokenizer."""

    kind: str | None
    pretokenizer: str | None
    tokens: int
    merges: int
    special: tuple[SpecialToken, ...]
    add_bos: bool | None
    add_eos: bool | None

    def special_token(self, role: str) -> SpecialToken | None:
        """Return the token of that role."""
        return next((token for token in self.special if token.role == role), None)


@dataclass(frozen=True, slots=True)
class TemplateFacts:
    """The chat template: how long it is, its SHA-256, and the names of further ones."""

    characters: int
    sha256: str
    others: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ImatrixFacts:
    """Where the importance matrix came from that the model was quantized with."""

    file: str | None
    dataset: str | None
    entries: int | None
    chunks: int | None


@dataclass(frozen=True, slots=True)
class Inspection:
    """A model. `parameters` counts elements of tensors, `tensor_bytes` their bytes; `files` all files with weights."""

    path: Path
    kind: str  # "gguf" or "checkpoint"
    files: Mapping[str, int]
    architecture: str
    name: str | None
    parameters: int
    active_parameters: int | None  # of a mixture of experts: those that a token passes through
    tensor_bytes: int
    types: tuple[TypeShare, ...]
    file_type: str | None
    context_length: int | None
    sizes: Mapping[str, Any]
    vocabulary: VocabularyFacts | None
    template: TemplateFacts | None
    imatrix: ImatrixFacts | None
    license: str | None
    origin: Mapping[str, Any]
    warnings: tuple[str, ...]
    tensors: tuple[TensorFacts, ...] = field(repr=False)
    metadata: Mapping[str, Any] = field(repr=False)

    @property
    def size(self) -> int:
        """The bytes of all files with weights."""
        return sum(self.files.values())

    @property
    def bits_per_weight(self) -> float | None:
        """The bits that the tensors take, over their elements: headers and vocabulary are not counted."""
        return 8 * self.tensor_bytes / self.parameters if self.parameters else None


def type_shares(tensors: Iterable[tuple[str, int, int]]) -> tuple[TypeShare, ...]:
    """Count tensors by type, given each one's type, elements and bytes; the type with most bytes first."""
    counts: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for kind, elements, size in tensors:
        for place, amount in enumerate((1, elements, size)):
            counts[kind][place] += amount
    shares = [TypeShare(kind, *amounts) for kind, amounts in counts.items()]
    return tuple(sorted(shares, key=lambda share: (-share.bytes, share.type)))
