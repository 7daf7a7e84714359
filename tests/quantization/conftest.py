"""Models to quantize, made once; tests must not change them."""

from pathlib import Path

import numpy as np
import pytest
import tiny_gguf


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `even` (K types fit), `odd` (some fall back), `ragged` (nothing fits) and `aligned` models."""
    folder = tmp_path_factory.mktemp("models")
    tiny_gguf.write_model(folder / "even-F16.gguf")
    tiny_gguf.write_model(folder / "even-F32.gguf", dtype=np.float32)
    tiny_gguf.write_model(folder / "odd-F16.gguf", feed_forward=288)
    tiny_gguf.write_model(folder / "ragged-F16.gguf", hidden=264, feed_forward=40)
    tiny_gguf.write_model(folder / "aligned-F16.gguf", alignment=256)
    return folder
