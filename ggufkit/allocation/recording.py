"""Writing down how a file came about: the recipe, by which other models of its kind can be made."""

import math
from pathlib import Path

from ggufkit.allocation.model import Model
from ggufkit.allocation.options import OptimizeOptions
from ggufkit.allocation.texts import Dealt, Use
from ggufkit.allocation.verification import Verified
from ggufkit.files import write_atomically
from ggufkit.quantization.recipe import Recipe, RecipeText, Role, hash_file, layout_hash, matrices
from ggufkit.quantization.recipe import text as recipe_text
from ggufkit.quantization.types import is_writable


def write_recipe(
    path: Path,
    model: Model,
    budget: int,
    best: Verified,
    size: int,
    label: str,
    options: OptimizeOptions,
    texts: Dealt,
) -> None:
    """Write the recipe of a file of `size` bytes that was made for a budget. Raises OutputError."""
    from ggufkit import __version__

    metadata = model.headers[0].metadata
    name = metadata.get("general.name")
    matrix = options.quantize.imatrix
    uses = {Use.CALIBRATION: Role.CALIBRATION, Use.PROBING: Role.DEVELOPMENT, Use.CHOOSING: Role.DEVELOPMENT}
    recipe = Recipe(
        tensors={
            tensor.name: best.candidate.types.get(tensor.name, tensor.type)
            for tensor in matrices(model.headers)
            if tensor.name in best.candidate.types or is_writable(tensor.type)
        },
        architecture=str(metadata["general.architecture"]),
        file_type=label,
        model_name=name if isinstance(name, str) else None,
        model_sha256=hash_file(header.path for header in model.headers),
        layout_sha256=layout_hash(model.headers),
        imatrix_sha256=hash_file([matrix]) if matrix else None,
        budget_bytes=budget,
        file_bytes=size,
        predicted_kld=best.candidate.predicted if math.isfinite(best.candidate.predicted) else None,
        measured_kld=best.measured.kld,
        measured_kld_999=best.measured.tail,
        measured_on=Role.DEVELOPMENT,
        refined=bool(best.candidate.refined),
        equalized=bool(best.candidate.equalized) or None,
        scales_searched=best.candidate.scales_searched or None,
        made_by=f"ggufkit {__version__}, effort {options.effort.value}",
        texts=tuple(
            RecipeText(role, use.value, texts.sha256(use)) for use, role in uses.items() if getattr(texts, use.value)
        ),
    )
    write_atomically(path, recipe_text(recipe).encode())
