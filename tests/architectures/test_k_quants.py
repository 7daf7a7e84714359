"""K-quants apply to every architecture: with rows of 256, llama-quantize has no tensor fall back to another type."""

from pathlib import Path

import pytest
import tokenless
from recipes import checkpoint, golden, wide

from ggufkit.architectures import CATALOGUE, spec_for
from ggufkit.checkpoints import Config
from ggufkit.llamacpp.quantize import Options, Report, quantize

pytestmark = [pytest.mark.oracle, pytest.mark.engine]

K_TYPES = {"q2_K", "q3_K", "q4_K", "q5_K", "q6_K"}
# llama.cpp's own choice, whatever the rows are: llama_tensor_get_type in src/llama-quant.cpp
NOT_K = {"falcon": {"token_embd.weight": "q8_0"}}


def dry_run(folder: Path, kind: str) -> Report:
    """Ask llama-quantize about the file that the checkpoint becomes: a header and a hole."""
    with tokenless.planned(folder, "f16") as conversion:
        path = folder / "model.gguf"
        with path.open("wb") as file:
            file.write(conversion.layout.header)
            file.truncate(conversion.layout.size)
    return quantize(Options(path, None, kind, threads=1))


@pytest.mark.parametrize("name", wide.RECIPES)
def test_no_tensor_falls_back(name: str, tmp_path: Path) -> None:
    folder = checkpoint(name, tmp_path)
    expected = NOT_K.get(spec_name(name), {})
    for kind in ("Q4_K_M", "Q2_K"):
        report = dry_run(folder, kind)
        assert report.failure is None
        assert report.fallbacks == ()
        converted = {tensor.name: tensor.to for tensor in report.tensors if tensor.to}
        assert {tensor: to for tensor, to in converted.items() if to not in K_TYPES} == expected
        assert len(converted) > len(expected)


def test_every_architecture_is_among_them() -> None:
    assert {spec.name for spec in CATALOGUE} == {spec_name(name) for name in wide.RECIPES}


def spec_name(name: str) -> str:
    config = Config(golden(name)["config"])
    return spec_for(config.architecture, config.model_type).name
