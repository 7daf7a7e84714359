"""The pin is complete, and says the same as pyproject.toml."""

import re
import tomllib

from ggufkit.llamacpp import pin


def test_pin_names_one_exact_source_distribution():
    found = pin.pin()
    assert re.fullmatch(r"\d+\.\d+\.\d+", found.version)
    assert re.fullmatch(r"[0-9a-f]{64}", found.sha256)
    assert re.fullmatch(r"[0-9a-f]{7,40}", found.commit)


def test_pin_and_inference_extra_agree():
    root = pin.checkout()
    assert root is not None
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert project["optional-dependencies"]["inference"] == [f"{pin.pin().package}=={pin.pin().version}"]


def test_every_program_that_ggufkit_needs_is_built():
    assert {"llama-quantize", "llama-imatrix", "llama-perplexity", "llama-server"} <= set(pin.pin().tools)
