"""The F32 file of every encoder's recipe, run by libllama, makes of a text what transformers makes of it."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from embeddings import distances, job
from gguf import GGUFReader
from recipes import RECIPES, bert, checkpoint, t5
from tokenless import convert

pytestmark = [pytest.mark.oracle, pytest.mark.engine]

LIMIT = 5e-3  # ggml looks GELU up in a table of float16, which alone costs 5e-4
ORACLE = Path(__file__).parents[1] / "oracles" / "transformers_embeddings.py"
ENCODERS = [name for name, recipe in RECIPES.items() if recipe.no_logits in (bert.ENCODER, t5.PAIR)]
Results = Callable[[str], dict[str, np.ndarray]]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Results:
    """Run every encoder that this run asks for by transformers, all in one child process."""
    root = tmp_path_factory.mktemp("encoders")
    here = [item.callspec.params for item in request.session.items if item.fspath == request.node.path]
    wanted = [parameters["name"] for parameters in here if "name" in parameters]
    jobs = [job(name, checkpoint(name, root / name)) for name in wanted]
    (root / "jobs.json").write_text(json.dumps(jobs))
    ran = subprocess.run([sys.executable, ORACLE, root / "jobs.json"], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-4000:]

    def load(name: str) -> dict[str, np.ndarray]:
        error = root / name / "error.txt"
        assert not error.exists(), error.read_text()
        return {path.stem: np.load(path) for path in (root / name).glob("*.npy")}

    load.folder = root
    return load


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_agree(name: str, expected: Results, figure: Callable[[str, str], None]) -> None:
    found = distances(name, convert(expected.folder / name), expected(name))
    figure(name, "relative L2 " + ", ".join(f"{kind} {value:.1e}" for kind, value in found.items()))
    assert {kind: value for kind, value in found.items() if not value < LIMIT} == {}


@pytest.mark.parametrize(("mode", "number"), [("mean_tokens", 1), ("cls_token", 2), ("lasttoken", 3)])
def test_a_sentence_transformers_folder_tells_how_to_pool(tmp_path: Path, mode: str, number: int) -> None:
    folder = checkpoint("bert", tmp_path)
    (folder / "modules.json").write_text('[{"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]')
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({f"pooling_mode_{mode}": True}))
    assert GGUFReader(convert(folder)).fields["bert.pooling_type"].contents() == number
