"""A copy of the adapters with a fake one among them, and the demo model as GGUF file and checkpoint."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import fake_baseline
import pytest

from ggufkit.conversion import OutputType, convert
from ggufkit.evaluation.baselines import measure, processes, runners
from ggufkit.evaluation.baselines.runners.adapter import Baseline, Recipe

DEMO = Path(__file__).parents[3] / "ggufkit" / "demo_model"
OURS = Recipe("fake", ("numpy==2.4.6",), ("numpy",), torch="", accepts={"numpy": ("1", "9")})


@pytest.fixture(scope="session")
def demo_f32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "demo-F32.gguf"
    convert(DEMO, path, outtype=OutputType.F32)
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a copy, in which the fake baseline may leave marks."""
    folder = Path(shutil.copytree(DEMO, tmp_path_factory.mktemp("model") / "checkpoint"))
    (folder / "marks").mkdir()
    return folder


@pytest.fixture(scope="module")
def fakes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Have the names of baselines be variants of the fake one; give the folder of adapters."""
    root = tmp_path_factory.mktemp("fakes")
    folder = root / "runners"
    shutil.copytree(Path(runners.__file__).parent, folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(fake_baseline.__file__, folder / "fake.py")

    def fake(name: str) -> Baseline:
        recipe = Recipe("absent", ("absent==1",), ("absent",)) if name == "absent" else OURS
        load_bytes = 1e9 if name == "huge" else 1.0
        return Baseline(name, f"fake, {name}", recipe, "fake", name, load_bytes, prepares=name == "prepared")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "_FOLDER", folder)
        patch.setattr(measure, "named", lambda names: [fake(name) for name in names])
        patch.setenv("GGUFKIT_CACHE", str(root / "cache"))
        yield folder
