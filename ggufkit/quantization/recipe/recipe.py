"""A recipe as a value: a type for every matrix of a model, and what is known about how it was chosen."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from ggufkit.gguf_file.tensor_types import TensorType

SCHEMA_VERSION = 1


class Role(StrEnum):
    """What a text was used for."""

    CALIBRATION = "calibration"  # the importance matrix
    DEVELOPMENT = "development"  # choosing the types
    TEST = "test"  # the figures that are told


@dataclass(frozen=True, slots=True)
class RecipeText:
    """A text that the types were chosen or measured with; `name` is its file's, without a folder."""

    role: Role
    name: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Types of the matrices of a model by their names; vectors have none, llama.cpp never quantizes them.

    `file_type` is the preset that the file is labelled with (`general.file_type`). `model_sha256` is the hash of the
    unquantized GGUF file that the types were chosen for; `layout_sha256` that of its tensors' names and shapes, which
    fine-tunes of one model share. Divergences are mean (and 99.9th percentile) Kullback-Leibler divergences in nats
    per token; the predicted one is for the development texts, the measured ones for what `measured_on` says.
    What is not known is None.
    """

    tensors: Mapping[str, TensorType]
    architecture: str | None = None
    file_type: str | None = None
    model_name: str | None = None
    model_sha256: str | None = None
    layout_sha256: str | None = None
    imatrix_sha256: str | None = None
    budget_bytes: int | None = None
    file_bytes: int | None = None
    predicted_kld: float | None = None
    measured_kld: float | None = None
    measured_kld_999: float | None = None
    measured_on: Role | None = None
    refined: bool | None = None  # the weights were changed too, so that the types alone do not give the same file
    equalized: bool | None = None  # channels of the weights were scaled: the same holds
    scales_searched: bool | None = None  # its blocks have better scales than ggml's encoder finds
    made_by: str | None = None
    texts: tuple[RecipeText, ...] = ()
