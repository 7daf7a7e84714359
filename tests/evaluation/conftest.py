"""Small models of three kinds, converted once: a trained Llama (the demo model), a Mixtral and a Gemma 2."""

from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_checkpoints

import ggufkit
from ggufkit.conversion import OutputType, convert

DEMO = Path(ggufkit.__file__).with_name("demo_model")


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, Path]]:
    """Give a GGUF file, and the checkpoint that it was made of; tests must not change them."""
    root = tmp_path_factory.mktemp("verified")

    def make(name: str, outtype: str = "f16") -> tuple[Path, Path]:
        folder = DEMO if name == "demo" else root / name
        if not folder.exists():
            folder.mkdir()
            tiny_checkpoints.make(name, folder, "bfloat16")
        model = root / f"{name}-{outtype}.gguf"
        if not model.exists():
            if outtype in ("f32", "f16", "bf16", "q8_0"):
                convert(folder, model, outtype=OutputType(outtype))
            else:
                ggufkit.quantize(make(name)[0], outtype, model)
        return model, folder

    return make
