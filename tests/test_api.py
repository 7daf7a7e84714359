"""`import ggufkit` is instant and changes nothing; its names stay what they are."""

import subprocess
import sys

import pytest

import ggufkit

HEAVY = ("torch", "transformers", "numpy", "llama_cpp", "gguf", "jinja2", "sentencepiece")


@pytest.mark.parametrize("name", [name for name in ggufkit.__all__ if name != "__version__"])
def test_a_name_is_the_same_thing_at_every_access(name: str) -> None:
    """A package ggufkit/convert/ would turn the function into the module on second access."""
    first = getattr(ggufkit, name)
    assert callable(first)
    assert getattr(ggufkit, name) is first
    assert name in dir(ggufkit)


def test_every_lazy_name_is_exported_and_nothing_else() -> None:
    assert set(ggufkit._HOMES) | {"__version__"} == set(ggufkit.__all__)
    with pytest.raises(AttributeError, match="no attribute 'conversion_of_nothing'"):
        _ = ggufkit.conversion_of_nothing


@pytest.mark.parametrize("code", ["import ggufkit", "import ggufkit.cli"])
def test_importing_is_light_and_without_side_effects(code: str) -> None:
    program = (
        "import os, sys, warnings\n"
        "before = list(sys.path), dict(os.environ), list(warnings.filters)\n"
        f"{code}\n"
        "assert (list(sys.path), dict(os.environ), list(warnings.filters)) == before\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_help_needs_nothing_heavy() -> None:
    program = (
        "import sys; from ggufkit.cli._app import app\n"
        "try: app(['--help'], standalone_mode=False)\n"
        "except SystemExit: pass\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")
    assert "quantize" in done.stdout
