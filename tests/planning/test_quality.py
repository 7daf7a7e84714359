"""Quality: published figures, and what was measured on the very model."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import tiny_gguf

from ggufkit.gguf_file.reader import read_header
from ggufkit.llamacpp.find import cache_folder, find_source
from ggufkit.planning import quality


def write(path: Path, model: str, *results: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"schema_version": 1, "kind": "divergence", "model": model, "text": "a text", "results": list(results)}
    path.write_text(json.dumps(document))
    return path


@pytest.mark.oracle
def test_the_prior_is_the_published_table() -> None:
    text = (find_source() / "tools" / "perplexity" / "README.md").read_text()
    rows = re.findall(r"^\| (\w+) +\| (None|WT 10m) +\|(?: [^|]+\|){3} ([\d.]+) ±", text, re.MULTILINE)
    published = {(name.upper(), matrix != "None"): float(value) for name, matrix, value in rows}
    assert len(published) > 30
    for (name, with_imatrix), value in published.items():
        found = quality.prior(name, with_imatrix=with_imatrix)
        assert found is not None
        if name != "F16":
            assert (found.mean_kld, found.with_imatrix) == (value, with_imatrix), name


def test_the_nearest_prior_is_taken() -> None:
    assert quality.prior("Q4_K_M", with_imatrix=True) != quality.prior("Q4_K_M", with_imatrix=False)
    assert quality.prior("Q8_0", with_imatrix=True) == quality.prior("Q8_0", with_imatrix=False)
    assert quality.prior("TQ1_0", with_imatrix=False) is None


def test_a_measurement_is_found_by_what_the_model_is(tmp_path: Path) -> None:
    f16, f32 = tiny_gguf.write_model(tmp_path / "a.gguf"), tiny_gguf.write_model(tmp_path / "b.gguf", dtype="float32")
    other = tiny_gguf.write_model(tmp_path / "c.gguf", feed_forward=288)
    model, same, different = (quality.fingerprint([read_header(path)]) for path in (f16, f32, other))
    assert model == same != different
    write(tmp_path / "run.divergence.json", model, {"type": "q4_k_m", "mean_kld": 0.5, "standard_error": 0.01})
    found = quality.measured(model, [tmp_path])["Q4_K_M", False]
    assert (found.mean_kld, found.standard_error, found.measured) == (0.5, 0.01, True)
    assert quality.measured(different, [tmp_path]) == {}


def test_the_newest_counts_and_the_cache_is_looked_at(tmp_path: Path) -> None:
    old = write(tmp_path / "old.divergence.json", "m", {"type": "Q8_0", "mean_kld": 0.1})
    write(cache_folder() / "divergence" / "new.divergence.json", "m", {"type": "Q8_0", "mean_kld": 0.2})
    os.utime(old, (1, 1))
    assert quality.measured("m", [tmp_path])["Q8_0", False].mean_kld == 0.2


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"kind": "divergence", "model": "m", "results": [3, {"mean_kld": "x"}]}']
)
def test_what_is_no_measurement_is_passed_over(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.divergence.json").write_text(text)
    assert quality.measured("m", [tmp_path]) == {}


def test_a_file_of_other_types_is_not_what_its_type_says(tmp_path: Path) -> None:
    write(tmp_path / "a.divergence.json", "m", {"type": "Q8_0", "mean_kld": 0.1, "weight_bytes": 5})
    assert quality.measured("m", [tmp_path], {("Q8_0", False): 6}) == {}
    for sizes in ({("Q8_0", False): 5}, {("Q4_0", False): 6}, None):
        assert quality.measured("m", [tmp_path], sizes)["Q8_0", False].mean_kld == 0.1
