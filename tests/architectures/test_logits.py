"""The F32 file of every recipe, run by libllama, gives the logits that transformers computes from the checkpoint."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from recipes import RECIPES, checkpoint
from tokenless import convert_and_run

pytestmark = [pytest.mark.oracle, pytest.mark.engine]

TOKENS = 40  # longer than the sliding windows of recipes, and than their rope's original context where it matters
LIMIT = 5e-3
ORACLE = Path(__file__).parents[1] / "oracles" / "transformers_logits.py"
COMPARED = [name for name, recipe in RECIPES.items() if recipe.no_logits is None]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Callable[[str], np.ndarray]:
    """Compute the logits of every recipe that this run asks for by transformers, all in one child process."""
    root = tmp_path_factory.mktemp("logits")
    wanted = [item.callspec.params["name"] for item in request.session.items if item.fspath == request.node.path]
    for name in wanted:
        checkpoint(name, root / name)
    jobs = [{"folder": str(root / name), "model": RECIPES[name].model, "tokens": prompt(name)} for name in wanted]
    (root / "jobs.json").write_text(json.dumps(jobs))
    ran = subprocess.run([sys.executable, ORACLE, root / "jobs.json"], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-4000:]

    def load(name: str) -> np.ndarray:
        error = root / name / "error.txt"
        assert not error.exists(), error.read_text()
        return np.load(root / name / "logits.npy")

    load.folder = root
    return load


def prompt(name: str) -> list[int]:
    return np.random.default_rng(1).integers(3, RECIPES[name].config.get("vocab_size", 384), TOKENS).tolist()


@pytest.mark.parametrize("name", COMPARED)
def test_logits_agree(name: str, expected: Callable[[str], np.ndarray], figure: Callable[[str, str], None]) -> None:
    theirs = expected(name)
    ours = convert_and_run(expected.folder / name, prompt(name))
    distance = float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))
    same_top = float((ours.argmax(-1) == theirs.argmax(-1)).mean())
    figure(f"logits of {name}", f"relative L2 {distance:.1e}, same top-1 at {same_top:.0%} of {TOKENS} positions")
    assert distance < LIMIT
    assert same_top > 0.97
