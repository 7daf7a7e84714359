"""What quantized files are called."""

from pathlib import Path

import pytest

from ggufkit.quantization.names import output_name, output_path
from ggufkit.quantization.types import quantization_type

Q4 = quantization_type("Q4_K_M")


@pytest.mark.parametrize(
    ("source", "output"),
    [
        ("model-F16.gguf", "model-Q4_K_M.gguf"),
        ("model-f16.gguf", "model-Q4_K_M.gguf"),
        ("model.BF16.gguf", "model.Q4_K_M.gguf"),
        ("model_fp32.GGUF", "model_Q4_K_M.gguf"),
        ("model-Q8_0.gguf", "model-Q4_K_M.gguf"),
        ("model-IQ2_XXS.gguf", "model-Q4_K_M.gguf"),
        ("model.gguf", "model-Q4_K_M.gguf"),
        ("model-of-F16s.gguf", "model-of-F16s-Q4_K_M.gguf"),
        ("F16.gguf", "F16-Q4_K_M.gguf"),
        ("model-F16-00001-of-00003.gguf", "model-Q4_K_M.gguf"),
        ("Llama-3.2-1B", "Llama-3.2-1B-Q4_K_M.gguf"),
    ],
)
def test_the_type_of_the_source_is_replaced(source: str, output: str):
    assert output_name(source, Q4) == output


def test_the_output_lies_beside_a_file_and_in_the_current_folder_for_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert output_path(Path("models/a-F16.gguf"), Q4) == Path("models/a-Q4_K_M.gguf")
    (tmp_path / "checkpoint").mkdir()
    assert output_path(tmp_path / "checkpoint", Q4) == Path("checkpoint-Q4_K_M.gguf")
    monkeypatch.chdir(tmp_path / "checkpoint")
    assert output_path(Path(), Q4) == Path("checkpoint-Q4_K_M.gguf")
