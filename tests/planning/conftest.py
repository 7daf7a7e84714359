"""Planning keeps measurements in ggufkit's cache: every test has one of its own."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GGUFKIT_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def hollow_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of a billion weights that are all holes."""
    import hollow_checkpoint

    return hollow_checkpoint.write(tmp_path_factory.mktemp("hollow") / "hollow-1b")
