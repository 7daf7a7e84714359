"""The section about chosen types: the right figures, safe with any names, whole, and open to all people."""

import copy
import json
import sys
from pathlib import Path
from typing import Any

import browser
import page_checks
import pytest

from ggufkit import cli
from ggufkit.errors import InputError
from ggufkit.reports import read_results, render
from ggufkit.reports.allocation.reading import allocation_of, read_allocation

NASTY = '"><script>alert(1)</script>&lt;b'
TYPES = {"blk.0.attn_v.weight": "Q6_K", "blk.1.attn_v.weight": "Q3_K", "output.weight": "Q5_K"}
PRESET = {"blk.0.attn_v.weight": "Q4_K", "blk.1.attn_v.weight": "Q4_K", "output.weight": "Q6_K"}


def candidate(name: str, by_probes: float, measured: float, *, is_preset: bool = False) -> dict[str, Any]:
    return {
        "name": name,
        "is_preset": is_preset,
        "is_refined": False,
        "bytes": 600_000,
        "predicted_by_probes": by_probes,
        "predicted_kld": 1.1 * by_probes,
        "mean_kld": measured,
        "kld_999": 20 * measured,
        "same_top": 0.97,
    }


def point(size: int, predicted: float, preset: str | None = None) -> dict[str, Any]:
    it = {"bytes": size, "bits_per_weight": size / 125_000, "predicted": predicted, "predicted_by_probes": predicted}
    return it | {"preset": preset}


@pytest.fixture
def document() -> dict[str, Any]:
    return {
        "schema_version": 1,
        "kind": "allocation",
        "created": "2026-01-01T00:00:00+00:00",
        "source": "somewhere/m-F16.gguf",
        "model": {"name": "m", "architecture": "llama", "weights": 1_000_000, "bytes": 2_000_000},
        "settings": {"effort": "normal", "sensitivity": "probes"},
        "texts": [
            {"use": use, "sha256": 64 * str(number), "tokens": 4096, "chunks": 8 * number, "chunk_tokens": 512}
            for number, use in enumerate(("calibration", "probing", "choosing"))
        ],
        "overlap": {"window_tokens": 32, "limit": 0.001, "found": []},
        "tensors": {"blk.0.attn_v.weight": 256_000, "blk.1.attn_v.weight": 256_000, "output.weight": 512_000},
        "sensitivities": [{"tensor": name, "cost": 0.01, "type": "Q3_K"} for name in TYPES],
        "compared": [{"name": "output.weight", "foretold": 0.011, "measured": 0.010}],
        "seconds": 60.0,
        "estimate": {"stages": {"probes": 50.0}, "seconds": 55.0},
        "results": [
            {
                "target": "Q4_K_M",
                "budget": 600_100,
                "output": "somewhere/m-Q4_K_M-optimized.gguf",
                "bytes": 600_000,
                "bits_per_weight": 4.8,
                "tensors": TYPES,
                "preset": "Q4_K_M",
                "preset_tensors": PRESET,
                "chosen": "errors and curve",
                "candidates": [
                    candidate("errors and curve", 0.0021, 0.0025),
                    candidate("Q4_K_M", 0.004, 0.005, is_preset=True),
                ],
                "refined": [{"tensor": "output.weight", "accepted": False, "reason": "no inputs were seen"}],
                "difference": {"difference": -0.0025, "low": -0.003, "high": -0.002, "is_clear": True},
            }
        ],
        "frontier": [
            point(300_000, 0.2, "Q2_K"),
            point(310_000, 0.08),
            point(599_000, 0.0024),
            point(600_000, 0.005, "Q4_K_M"),
            point(1_060_000, 0.0002, "Q8_0"),
        ],
    }


def page_of(document: dict[str, Any]) -> str:
    return render([], allocations=[allocation_of(document, "run.json")])


def test_what_is_told(document: dict[str, Any]) -> None:
    page = page_of(document)
    for said in (
        "m-Q4_K_M-optimized.gguf",
        "0.50 times",  # 0.0025 over 0.005
        "<td>0.48</td>",  # 0.0024 foretold of the best no larger than Q4_K_M, over its 0.005
        "<td>0.84</td>",  # 0.0021 by probes over 0.0025
        "Q6_K <abbr",
        "more bits than Q4_K",
        "fewer bits than Q6_K",
        "The texts are disjoint",
        "Backward pass and probes",
        "no inputs were seen",
        "60 s; 55 s were expected",
    ):
        assert said in page, said


def test_shared_passages_are_told_loudly_and_an_unknown_calibration_too(document: dict[str, Any]) -> None:
    document["overlap"]["found"] = [{"of": "the calibration text", "within": "the other", "share": 0.02}]
    page = page_of(document)
    assert "not disjoint" in page
    assert "2.0% of the other is in the calibration text too" in page
    document["texts"] = document["texts"][1:]
    assert "could not be ruled out" in page_of(document)


def test_a_preset_that_was_not_beaten_is_said_to_be_it(document: dict[str, Any]) -> None:
    file = document["results"][0]
    file |= {"chosen": "Q4_K_M", "difference": None, "tensors": PRESET, "refined": []}
    page = page_of(document)
    assert "no choice of types was better than Q4_K_M" in page
    assert "more bits than" not in page


def test_any_names_are_harmless_and_the_page_is_well_formed(document: dict[str, Any]) -> None:
    import html5lib

    text = json.dumps(document).replace("m-Q4_K_M-optimized", NASTY.replace('"', '\\"')).replace("attn_v", "a<b>&c")
    page = page_of(json.loads(text))
    assert "<script>alert" not in page
    assert "a<b>" not in page
    html5lib.HTMLParser(strict=True).parse(page)
    for word in ("http:", "https:", "src=", "href=", "@import", "url("):
        assert word not in page


def test_the_command_takes_it_alone_and_refuses_what_is_broken(
    document: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps(document))
    monkeypatch.setattr(sys, "argv", ["ggufkit", "report", str(path), "-q"])
    with pytest.raises(SystemExit, match=r"^0$"):
        cli.main()
    assert capsys.readouterr().out.strip() == str(tmp_path / "run.html")
    assert "chosen types" in (tmp_path / "run.html").read_text()
    assert len(read_results([path])[1]) == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"schema_version": 9}, "schema version 9"),
        ({"results": 3}, "malformed"),
        ({"tensors": {"a": "many"}}, "malformed"),
        ({"frontier": [{}]}, "malformed"),
        ({"results": [{}]}, "malformed"),
        ({"overlap": None}, "malformed"),
        ({"dry_run": True}, "dry run"),
    ],
)
def test_broken_results_are_refused(change: dict[str, Any], reason: str, document: dict[str, Any]) -> None:
    broken = {**copy.deepcopy(document), **change}
    with pytest.raises(InputError, match=reason):
        read_allocation(json.dumps(broken), Path("run.json"))


LOOKS = {"light": {}, "dark": {"dark": True}, "phone": {"width": 390}, "print": {"media": "print", "width": 700}}


@pytest.mark.slow
@pytest.mark.oracle
@pytest.mark.skipif(browser.why_not() is not None, reason=str(browser.why_not()))
@pytest.mark.skipif(page_checks.axe() is None, reason="needs axe-core (scripts/setup --test, or $GGUFKIT_AXE)")
def test_a_browser_draws_it_and_axe_has_no_complaint(document: dict[str, Any], tmp_path: Path) -> None:
    path, script = tmp_path / "page.html", page_checks.axe()
    path.write_text(page_of(document))
    assert script
    with browser.browser() as window:
        for look in LOOKS.values():
            window.show_as(**look)
            window.open(path.as_uri())
            window.run("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
            assert window.run("return document.documentElement.scrollWidth <= innerWidth"), look
            assert page_checks.faults_for_people(window, script) == [], look
        heights = window.run("return [...document.querySelectorAll('svg')].map(s => s.getBoundingClientRect().height)")
        assert len(heights) == 3
        assert min(heights) > 50
        assert window.complaints() == []
        assert set(window.requested()) == {path.as_uri()}
