"""The page: right at a glance, safe with what models write, whole without a network, and drawn in a real browser."""

import copy
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import browser
import pytest

from ggufkit.errors import InputError
from ggufkit.reports import read_run, render
from ggufkit.reports.compare import compare
from ggufkit.reports.reading import run_of
from ggufkit.reports.verdict import Limits, verdict

NASTY = '"><script>alert(1)</script>&lt;b.gguf'


def model(kind: str, size: int, kld: float | None, **changes: Any) -> dict[str, Any]:
    it: dict[str, Any] = {
        "file": f"m-{kind}.gguf",
        "type": kind,
        "bytes": size,
        "bits_per_weight": 8 * size / 1e6,
        "sha256": "0" * 64,
        "perplexity": {"value": 5.0 + (kld or 0), "standard_error": 0.1},
        "block_types": {"attn_q.weight": ["Q4_K", "Q6_K"], "attn_norm.weight": ["F32", "F32"]},
        "other_types": {"output.weight": "Q6_K"},
        "domains": [
            {"domain": name, "perplexity": {"value": 5.0}, "kl_divergence": {"mean": kld}} for name in ("prose", "code")
        ],
        "speed": {"prompt_tokens_per_second": 100.0, "peak_bytes": 10**8},
    }
    if kld is not None:
        it |= {
            "perplexity_ratio": {"value": 1 + kld / 5, "standard_error": 0.001},
            "kl_divergence": {
                "mean": kld,
                "standard_error": kld / 20,
                "percentiles": {"99.9": 10 * kld},
                "curve": [[0, 0.0], [50, kld / 2], [100, 20 * kld]],
            },
            "same_top": {"value": 1 - kld, "standard_error": 0.01},
            "delta_p": {"rms": {"value": kld, "standard_error": 0.0}},
        }
    return it | changes


@pytest.fixture
def document() -> dict[str, Any]:
    return {
        "schema_version": 1,
        "kind": "evaluation",
        "created": "2026-01-01T00:00:00+00:00",
        "ggufkit": "1",
        "texts": [{"name": "prose", "sha256": "1" * 64, "chunks": 3}],
        "base": model("F16", 2_000_000, None),
        "models": [
            model("Q8_0", 1_060_000, 0.001),
            model("Q5_0", 700_000, 0.02),
            model("Q4_K_M", 600_000, 0.01),
            model("Q2_K", 300_000, 0.3),
        ],
    }


def test_the_smallest_that_keeps_the_limits_is_to_be_shipped(document: dict[str, Any]):
    run = run_of(document, "run.json")
    found = verdict(run, Limits(max_kld=0.05, max_ppl_increase=0.03))
    assert found.model
    assert found.model.file == "m-Q4_K_M.gguf"
    assert found.dominated == {"m-Q5_0.gguf"}
    assert verdict(run, Limits(max_kld=0.002, max_ppl_increase=0.03)).model.file == "m-Q8_0.gguf"  # type: ignore[union-attr]
    none = verdict(run, Limits(max_kld=1e-9, max_ppl_increase=0.0))
    assert none.model is None
    assert "m-Q8_0.gguf" in none.why
    page = render([run])
    assert page.index("Ship <strong>m-Q4_K_M.gguf") < page.index("<table")
    assert "ggufkit quantize Q4_K_M m-F16.gguf" in page


def test_what_comes_from_models_stays_text(document: dict[str, Any]):
    document["models"][1] |= {"file": NASTY, "type": NASTY, "block_types": {NASTY: [NASTY]}}
    document["texts"][0]["name"] = NASTY
    document["models"][1]["domains"][0]["domain"] = NASTY
    said = {"text": NASTY, "tokens": 3, "agreement": {"tokens": 1, "of_tokens": 3, "same": False}}
    document["generations"] = [{"prompt": NASTY, "base": {"text": "a " + NASTY}, "replies": [said] * 4}]
    task = {"task": NASTY, "accuracy": 0.5, "low": 0.4, "high": 0.6, "p_value": 0.5}
    for it in (document["base"], *document["models"]):
        it["tasks"] = [task]
    page = render([run_of(document, "run.json")])
    assert "<script>alert" not in page
    assert page.count("<script") == 2  # ours, and the data
    data = page.split('<script type="application/json" id="run-0">')[1].split("</script>")[0]
    assert json.loads(data) == document


class Balanced(HTMLParser):
    """Sees that every element that is opened is closed, in order, and that no id comes twice."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names))
        found = dict(attrs).get("id")
        assert found not in self.ids
        self.ids |= {found} if found else set()
        if tag not in {"meta", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_asks_for_nothing(document: dict[str, Any]):
    run = run_of(document, "run.json")
    page = render([run, run_of(copy.deepcopy(document), "other.json")])
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    for word in ("http:", "https:", "src=", "href=", "@import", "url("):
        assert word not in page
    assert len(page) < 1_500_000


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("no json", "cannot read"),
        ("[]", "no result"),
        ('{"kind": "evaluation", "schema_version": 99}', "schema version 99"),
        ('{"kind": "evaluation", "schema_version": 1, "base": 3, "models": []}', "malformed"),
    ],
)
def test_what_is_no_result_is_refused(content: str, reason: str, tmp_path: Path):
    path = tmp_path / "run.json"
    path.write_text(content)
    with pytest.raises(InputError, match=reason):
        read_run(path)


def test_two_runs_are_compared_and_doubted(document: dict[str, Any]):
    newer = copy.deepcopy(document)
    newer["models"][2]["kl_divergence"]["mean"] = 0.05
    del newer["models"][0]
    newer["texts"][0]["chunks"] = 4
    found = compare(run_of(document, "old"), run_of(newer, "new"))
    assert [change.file for change in found.changes] == ["Q8_0", "Q5_0", "Q4_K_M", "Q2_K"]
    assert found.changes[0].new is None
    assert found.changes[1].kld_change == 0
    assert found.changes[2].kld_change == pytest.approx(0.04)
    assert found.changes[2].is_clear
    assert found.doubts == ("the texts, or how much of them was read, differ",)


@pytest.mark.slow
@pytest.mark.skipif(browser.why_not() is not None, reason=str(browser.why_not()))
def test_a_browser_draws_it_sorts_it_and_fetches_nothing(document: dict[str, Any], tmp_path: Path):
    document["models"][1]["file"] = NASTY
    path = tmp_path / "page.html"
    path.write_text(render([run_of(document, "run.json")]))
    with browser.browser() as window:
        window.open(path.as_uri())
        heights = window.run("return [...document.querySelectorAll('svg')].map(s => s.getBoundingClientRect().height)")
        assert len(heights) == 3
        assert min(heights) > 50
        assert window.run("return document.querySelectorAll('script').length") == 2
        first = "return document.querySelector('table.sortable tbody th').textContent"
        size = "table.sortable thead th:nth-child(2)"
        window.click(f"{size} button")
        assert window.run(first) == "m-Q2_K.gguf"
        window.click(f"{size} button")
        assert window.run(first) == "m-F16.gguf"
        assert window.run("return document.querySelector(arguments[0]).ariaSort", size) == "descending"
        assert window.role("svg")[0] in {"image", "img"}
        assert "Q4_K_M" in window.role("svg")[1]
        assert window.run("return document.documentElement.scrollWidth <= innerWidth")
        assert window.complaints() == []
        assert window.requested() == [path.as_uri()]
