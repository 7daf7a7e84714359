"""Tiny models that the tests of this folder load, written once."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_model

from ggufkit.inference.engine import Engine
from ggufkit.inference.options import EngineOptions


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.write(tmp_path_factory.mktemp("models") / "random.gguf")


@pytest.fixture(scope="module")
def engine(random_model: Path) -> Iterator[Engine]:
    with Engine.open(random_model, EngineOptions(threads=1)) as engine:
        yield engine
