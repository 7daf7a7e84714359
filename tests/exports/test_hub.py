"""Uploading to a hub on this machine: what arrives, what is not sent twice, and what the card says."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import hub_faults
import hub_server
import pytest
import tiny_gguf
from gguf import GGUFValueType as Type
from hub_server import Fault, Hub

from ggufkit.checkpoints.hub import Repository
from ggufkit.errors import HubError, UsageError
from ggufkit.exports.hub import plan_push, push
from ggufkit.exports.model_card import MARK
from ggufkit.gguf_file.edit import write_edited
from ggufkit.gguf_file.reader import read_header
from ggufkit.gguf_file.writer import Value
from ggufkit.planning.quality import Quality, fingerprint, remember

TARGET = Repository("me/tiny-GGUF")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    return [
        tiny_gguf.write_model(folder / f"tiny-{name}.gguf", hidden=hidden) for name, hidden in (("a", 256), ("b", 512))
    ]


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    from huggingface_hub import constants

    monkeypatch.setenv("HF_TOKEN", "hf_a_secret")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    (tmp_path / "root").mkdir()
    with hub_server.serving(tmp_path / "root") as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", running.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield running


def test_files_and_card_arrive_in_one_commit(served: Hub, models: list[Path]) -> None:
    pushed = push(plan_push(models, TARGET, base="someone/base"), private=True)
    folder = served.root / TARGET.id
    assert pushed.uploaded == tuple(model.name for model in models)
    for model in models:
        assert (folder / model.name).read_bytes() == model.read_bytes()
    card = (folder / "README.md").read_text()
    assert 'base_model: "someone/base"' in card
    assert served.created[0]["visibility"] == "private"
    assert len(served.commits) == 1


def test_what_is_there_is_not_sent_again(served: Hub, models: list[Path]) -> None:
    push(plan_push(models[:1], TARGET))
    assert len(served.received) == 1
    pushed = push(plan_push(models, TARGET))
    assert pushed.already_there == (models[0].name,)
    assert len(served.received) == 2
    assert push(plan_push(models, TARGET)).url is None
    assert len(served.commits) == 2


def test_an_interrupted_upload_goes_on(served: Hub, models: list[Path]) -> None:
    served.faults.append(Fault(r"commit/main", hub_faults.status(400)))
    with pytest.raises(HubError):
        push(plan_push(models, TARGET))
    assert not (served.root / TARGET.id / models[0].name).exists(), "nothing shows before the commit"
    served.faults.clear()
    push(plan_push(models, TARGET))
    assert len(served.received) == len(models), "it was sent twice"


def test_a_card_of_somebodys_own_stays(served: Hub, models: list[Path]) -> None:
    folder = served.root / TARGET.id
    folder.mkdir(parents=True)
    (folder / "README.md").write_text("# Mine\n")
    assert push(plan_push(models[:1], TARGET)).card_kept
    assert (folder / "README.md").read_text() == "# Mine\n"
    push(plan_push(models[:1], TARGET, card="# Another\n"))
    assert (folder / "README.md").read_text() == "# Another\n"


def test_who_may_not_write_is_told(served: Hub, models: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    served.faults.append(Fault(r"POST", hub_faults.status(403)))
    with pytest.raises(HubError, match="may not write") as caught:
        push(plan_push(models[:1], TARGET))
    assert "hf_a_secret" not in f"{caught.value} {caught.value.hint}"


def test_two_files_of_one_name(models: list[Path], tmp_path: Path) -> None:
    other = tmp_path / models[0].name
    other.write_bytes(models[0].read_bytes())
    with pytest.raises(UsageError, match="two files are called"):
        plan_push([models[0], other], TARGET)


def test_the_card_tells_what_was_measured(models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "m-F16.gguf"
    model.write_bytes(models[0].read_bytes())
    header = read_header(model)
    result = {
        "type": plan_push([model], TARGET).card.split("`m-F16.gguf` | ")[1].split(" |")[0],
        "mean_kld": 0.03125,
        "standard_error": 0.0002,
        "perplexity": 7.5,
        "perplexity_error": 0.01,
    }
    measurement = {"schema_version": 1, "kind": "divergence", "model": fingerprint([header]), "text": "wiki|test"}
    (tmp_path / "m.divergence.json").write_text(json.dumps({**measurement, "results": [result]}))
    card = plan_push([model], TARGET).card
    assert "| 0.0312 ± 0.0002 | 7.5000 ± 0.0100 |" in card
    assert "wiki&#124;test" in card, "a stranger's text must not become a column"
    assert MARK in card

    # So it does of what `eval` has left.
    (tmp_path / "m.divergence.json").unlink()
    monkeypatch.setenv("GGUFKIT_CACHE", str(tmp_path / "cache"))
    measured = Quality(0.5, False, measured=True, source="", standard_error=0.1, perplexity=9.0, perplexity_error=0.25)
    remember([header], "a text", [measured], [result["type"]])
    card = plan_push([model], TARGET).card
    assert "| 0.5000 ± 0.1000 | 9.0000 ± 0.2500 |" in card
    assert "measured on a text." in card
    for command in ("llama-cli -hf me/tiny-GGUF:", "ollama run hf.co/me/tiny-GGUF:", "ggufkit chat me/tiny-GGUF:"):
        assert command in card


def test_front_matter_of_odd_text_is_yaml(models: list[Path], tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    odd = 'mit: "x" # \n---\u2028\x85\x7f\t\U0001f600 \'é\\'
    model = tmp_path / "m.gguf"
    values = {
        "general.license": Value(odd, Type.STRING),
        "general.tags": Value([odd, "gguf"], Type.ARRAY, Type.STRING),
    }
    write_edited(read_header(models[0]), model, values=values)
    _, front, _ = plan_push([model], TARGET).card.split("---\n", 2)
    found = yaml.safe_load(front)
    assert found["license"] == odd
    assert found["tags"] == ["gguf", "ggufkit", odd]


@pytest.mark.parametrize("name", ["", "not-there.md", "latin.md"])
def test_a_card_that_cannot_be_read(models: list[Path], tmp_path: Path, name: str) -> None:
    (tmp_path / "latin.md").write_bytes(b"\xff\xfe")
    command = [sys.executable, "-m", "ggufkit", "push", str(models[0]), TARGET.id, "--dry-run"]
    done = subprocess.run([*command, "--card", str(tmp_path / name)], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "cannot read" in done.stderr
