"""`ggufkit check`: a verdict, what it rests on, and an exit code for scripts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import one_fault
import pytest
import tiny_model
from damaged_gguf import with_tensor

import ggufkit

pytestmark = pytest.mark.engine

CHECK = [sys.executable, "-c", "from ggufkit.cli import main; main()", "check"]
DEMO = Path(ggufkit.__file__).parent / "demo_model"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.write(tmp_path_factory.mktemp("check") / "model.gguf")


def check(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*CHECK, *arguments], capture_output=True, text=True, timeout=60, check=False)


def test_a_good_model_is_fit(model: Path):
    done = check(model)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, f"{model}: fit")
    assert done.stderr == ""


def test_json_has_every_finding(model: Path, tmp_path: Path):
    broken = one_fault.Model.read(model)
    broken.entries["llama.block_count"] = (one_fault.U32, 0)
    done = check("--json", "--headers-only", broken.write(tmp_path / "m.gguf"))
    document = json.loads(done.stdout)
    assert done.returncode == 3
    assert (document["verdict"], document["kind"], document["weights_read"]) == ("unfit", "gguf", False)
    [finding] = document["findings"]
    assert (finding["severity"], finding["where"]) == ("unfit", "llama.block_count")


def test_a_weight_that_is_no_number_is_found_by_name(model: Path, tmp_path: Path):
    def spoil(data: np.ndarray) -> np.ndarray:
        data.reshape(-1)[3] = np.nan
        return data

    name = "blk.1.ffn_norm.weight"
    result = ggufkit.check(with_tensor(model, tmp_path / "nan.gguf", name, spoil))
    assert not result.is_fit
    assert [finding.where for finding in result.findings if "not finite" in finding.what] == [name]


@pytest.mark.parametrize("name", ["matrix gone", "norm of other dimensions", "pre-tokenizer unknown", "matrix wider"])
def test_what_only_llama_cpp_can_tell_is_told_in_its_words(model: Path, tmp_path: Path, name: str):
    broken = one_fault.Model.read(model)
    one_fault.faults_of(broken)[name](broken)
    result = ggufkit.check(broken.write(tmp_path / "m.gguf"))
    assert [finding.what.partition(":")[0] for finding in result.findings if finding.where == "llama.cpp"] == [
        "cannot load it"
    ]


@pytest.mark.parametrize("name", ["template a bomb", "template endless", "template broken", "template breaks out"])
def test_a_template_that_must_not_be_rendered_is_unfit(model: Path, tmp_path: Path, name: str):
    broken = one_fault.Model.read(model)
    one_fault.faults_of(broken)[name](broken)
    result = ggufkit.check(broken.write(tmp_path / "m.gguf"), weights=False)
    assert [finding.where for finding in result.findings if finding.severity.name == "UNFIT"] == [
        "tokenizer.chat_template"
    ]


def test_a_folder_is_checked_too(tmp_path: Path):
    assert ggufkit.check(DEMO, weights=False).is_fit
    done = check(tmp_path)
    assert done.returncode == 3
    assert done.stdout.endswith(f"{tmp_path}: unfit\n")


def test_what_is_no_file_is_unfit_at_once(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "hollow").open("wb") as file:
        file.truncate(1 << 40)
    for path in (tmp_path / "pipe", tmp_path / "hollow", Path("/dev/null")):
        result = ggufkit.check(path)
        assert (result.is_fit, len(result.findings)) == (False, 1), path


def test_names_cannot_write_to_the_terminal(model: Path, tmp_path: Path):
    broken = one_fault.Model.read(model)
    one_fault.faults_of(broken)["token cursed"](broken)
    broken.entries["general.architecture"] = (one_fault.STR, "\x1b[2J\rgood")
    done = check(broken.write(tmp_path / "m.gguf"))
    assert "\x1b" not in done.stdout + done.stderr
    assert done.returncode == 3
