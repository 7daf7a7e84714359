"""Results measured elsewhere: what the documentation shows is read, and every wrong value is said with its place."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ggufkit.errors import InputError
from ggufkit.evaluation.baselines.documents import document_of
from ggufkit.evaluation.baselines.elsewhere import read_results
from ggufkit.evaluation.baselines.results import Origin
from ggufkit.evaluation.likelihood.texts import Chunks, cut_into_chunks

DOCUMENTATION = Path(__file__).parents[3] / "docs" / "baseline-results.md"


def example() -> dict[str, Any]:
    found = re.search(r"```json\n(.*?)```", DOCUMENTATION.read_text(), re.DOTALL)
    assert found
    return json.loads(found[1])


@pytest.fixture
def written(tmp_path: Path) -> Callable[[Any], Path]:
    def write(document: Any) -> Path:
        path = tmp_path / "results.json"
        path.write_text(document if isinstance(document, str) else json.dumps(document))
        return path

    return write


def test_the_documented_example_is_read(written: Callable[[Any], Path]):
    (row,) = read_results(written(example()))
    assert (row.name, row.origin, row.device, row.source) == (
        "vllm-fp8",
        Origin.ELSEWHERE,
        "one GPU of 80 GB",
        "results.json",
    )
    assert row.footprint.prompt is not None
    assert row.footprint.prompt.median == 14302.9
    assert row.footprint.generated_tokens == 128
    assert row.likelihood is not None
    assert row.likelihood.perplexity.value == 7.3512
    assert row.mean_kld is not None
    assert row.tasks[0].accuracy.share == pytest.approx(431 / 500)
    assert row.tasks[0].accuracy.low == pytest.approx(0.8288, abs=1e-3)  # Wilson's interval, from its formula
    assert json.loads(json.dumps(document_of(row)))["peak_bytes"] == 11_500_000_000


def test_every_documented_name_is_in_the_example_and_the_other_way_round():
    rows = [line.split("|")[1] for line in DOCUMENTATION.read_text().splitlines() if line.startswith("| `")]
    documented = {name for cell in rows for name in re.findall(r"`(\w+)`", cell)}
    assert documented == set(example()["results"][0])


@pytest.mark.parametrize(
    ("path", "value", "place", "expected"),
    [
        (["schema_version"], 2, "schema_version is 2", "expected 1"),
        (["kind"], "evaluation", 'kind is "evaluation"', "baseline-results"),
        (["results"], [], "results is []", "at least one"),
        (["results"], {}, "results is {}", "a list"),
        (["results", 0], "x", "results[0]", "an object"),
        (["results", 0, "name"], None, "results[0].name is null", "a text"),
        (["results", 0, "device"], " ", "results[0].device", "a text"),
        (["results", 0, "peek_bytes"], 1, "results[0].peek_bytes is not known", "peak_bytes"),
        (["results", 0, "peak_bytes"], 1.5, "results[0].peak_bytes is 1.5", "whole number"),
        (["results", 0, "peak_bytes"], True, "results[0].peak_bytes is true", "whole number"),
        (["results", 0, "load_seconds"], -1, "results[0].load_seconds is -1", "not negative"),
        (["results", 0, "versions"], {"vllm": 1}, "results[0].versions", "texts"),
        (["results", 0, "prompt"], 5, "results[0].prompt", "an object"),
        (["results", 0, "prompt", "samples"], [], "results[0].prompt.samples", "positive"),
        (["results", 0, "prompt", "samples"], [0], "results[0].prompt.samples", "positive"),
        (["results", 0, "perplexity", "value"], "7", 'results[0].perplexity.value is "7"', "a number"),
        (["results", 0, "perplexity", "value"], 0.5, "results[0].perplexity.value", "at least 1"),
        (["results", 0, "kl_divergence", "mean"], None, "results[0].kl_divergence.mean", "nats"),
        (["results", 0, "text"], None, "results[0].text", "what was read"),
        (["results", 0, "text", "sha256"], "abc", "results[0].text.sha256", "hexadecimal"),
        (["results", 0, "tasks", 0, "right"], 501, "results[0].tasks[0].right is 501", "at most"),
        (["results", 0, "tasks", 0, "questions"], 0, "results[0].tasks[0]", "questions"),
    ],
)
def test_a_wrong_value_is_said_with_its_place(
    path: list[str | int], value: Any, place: str, expected: str, written: Callable[[Any], Path]
):
    document: Any = example()
    inner = document
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    with pytest.raises(InputError) as raised:
        read_results(written(document))
    assert place in str(raised.value)
    assert expected in str(raised.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 5000, '{"results": NaN}', "\x00"])
def test_what_is_no_such_document_is_refused(text: str, written: Callable[[Any], Path]):
    with pytest.raises(InputError):
        read_results(written(text))


def test_a_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"no\.json"):
        read_results(tmp_path / "no.json")


def test_perplexities_count_as_comparable_only_of_the_same_text(written: Callable[[Any], Path], tmp_path: Path):
    text = tmp_path / "text.txt"
    text.write_text("words " * 100)
    document = example()
    chunks: Chunks = cut_into_chunks([text], [np.arange(64, dtype=np.int32)], 100, length=16, chunks=2)
    document["results"][0]["text"] = {"sha256": [chunks.domains[0].sha256], "chunk_tokens": 16, "chunks": 2}
    assert read_results(written(document), chunks)[0].same_text
    document["results"][0]["text"]["chunk_tokens"] = 32
    assert not read_results(written(document), chunks)[0].same_text
    assert not read_results(written(document))[0].same_text
