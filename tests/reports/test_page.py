"""The page: right at a glance, safe with what models write, whole without a network, and drawn in a real browser."""

import copy
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import browser
import page_checks
import pytest

from ggufkit import cli
from ggufkit.errors import InputError
from ggufkit.evaluation.gates import Gates
from ggufkit.reports import read_all, read_run, render
from ggufkit.reports.compare import compare
from ggufkit.reports.reading import run_of
from ggufkit.reports.verdict import verdict

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
    found = verdict(run, Gates(max_kld=0.05, max_ppl_increase=0.03))
    assert found.model
    assert found.model.file == "m-Q4_K_M.gguf"
    assert found.dominated == {"m-Q5_0.gguf"}
    assert verdict(run, Gates(max_kld=0.002, max_ppl_increase=0.03)).model.file == "m-Q8_0.gguf"  # type: ignore[union-attr]
    none = verdict(run, Gates(max_kld=1e-9, max_ppl_increase=0.0))
    assert none.model is None
    assert "m-Q8_0.gguf" in none.why
    page = render([run])
    assert page.index("Ship <strong>m-Q4_K_M.gguf") < page.index("<table")
    assert "ggufkit quantize m-F16.gguf Q4_K_M" in page
    assert (
        "m-Q2_K.gguf (300 kB) fails: mean KL divergence 0.300000, at most 0.05; perplexity +6.00%, at most +3%" in page
    )


def test_the_limits_of_the_run_decide_unless_others_are_given(document: dict[str, Any]):
    document["gates"] = {"max_kld": 0.005, "max_ppl_increase": None, "min_same_top": None, "min_task_accuracy": None}
    run = run_of(document, "run.json")
    assert verdict(run).model.file == "m-Q8_0.gguf"  # type: ignore[union-attr]
    assert "at most 0.005" in verdict(run).why
    assert verdict(run, Gates(max_kld=1.0)).model.file == "m-Q2_K.gguf"  # type: ignore[union-attr]
    assert verdict(run, Gates(min_same_top=0.985)).model.file == "m-Q4_K_M.gguf"  # type: ignore[union-attr]


def test_limits_on_what_was_not_measured_recommend_nothing(document: dict[str, Any], tmp_path: Path):
    tasks = [{"task": "sums", "accuracy": 0.5, "low": 0.4, "high": 0.6}]
    for it in (document["base"], *document["models"]):
        for name in ("perplexity", "kl_divergence", "perplexity_ratio", "same_top"):
            it.pop(name, None)
        it["tasks"] = tasks
    document["texts"] = []
    found = verdict(run_of(document, "run.json"))
    assert found.model is None
    assert "--min-task-accuracy" in found.why
    page = render([run_of(document, "run.json")])
    assert "keeps them" not in page
    assert "Ship" not in page
    assert verdict(run_of(document, "run.json"), Gates(min_task_accuracy=0.5)).model


def test_a_limit_on_what_no_run_measured_is_refused(
    document: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "run.json").write_text(json.dumps(document))
    monkeypatch.setattr(sys, "argv", ["ggufkit", "report", str(tmp_path / "run.json"), "--min-task-accuracy", "99%"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "--min-task-accuracy limits what was not measured" in capsys.readouterr().err


def test_a_broken_model_does_not_cost_the_others_their_page(document: dict[str, Any]):
    broken = document["models"][0]
    broken["perplexity"] = {"value": None, "standard_error": None}
    broken["kl_divergence"] |= {"mean": None, "curve": [[0, None], [100, None]], "percentiles": {"99.9": None}}
    broken["domains"] = [{"domain": name, "perplexity": {"value": None}} for name in ("prose", "code")]
    run = run_of(document, "run.json")
    found = verdict(run)
    assert found.model
    assert found.failed["m-Q8_0.gguf"] == ["its KL divergence is no number"]
    assert "m-Q8_0.gguf" in render([run])


def bench_row(file: str, samples: list[float], **changes: Any) -> dict[str, Any]:
    """A row as `ggufkit bench -o json` writes it, as far as reports read it."""
    row = {"model_filename": file, "n_prompt": 16, "n_gen": 0, "avg_ts": samples[0], "samples_ts": samples}
    return row | changes


def test_files_of_one_name_are_told_apart_by_their_folders(document: dict[str, Any]):
    document["models"] = [model("Q8_0", 9, 0.001, file="a/m.gguf"), model("Q8_0", 5, 0.3, file="b/m.gguf")]
    document["bench"] = [bench_row("/x/a/m.gguf", [10.0]), bench_row("b/m.gguf", [20.0]), bench_row("m.gguf", [5.0])]
    run = run_of(document, "run.json")
    assert [(it.file, it.median) for it in run.speeds] == [("a/m.gguf", 10.0), ("b/m.gguf", 20.0)]
    found = verdict(run)
    assert found.model
    assert found.model.file == "a/m.gguf"
    assert list(found.failed) == ["b/m.gguf"]


def test_speeds_with_several_settings_name_them(document: dict[str, Any]):
    rows = [bench_row("m-Q2_K.gguf", [10.0 * size], n_ubatch=size, type_k="f16") for size in (8, 16)]
    document["bench"] = [*rows, bench_row("m-Q8_0.gguf", [7.0], n_ubatch=8)]
    run = run_of(document, "run.json")
    assert [it.test for it in run.speeds] == ["pp16, ub 8", "pp16, ub 16", "pp16"]
    assert "Reading a prompt of 16 tokens (-ub 8)" in render([run])


def test_right_answers_are_a_limit_too(document: dict[str, Any]):
    for it, share in zip((document["base"], *document["models"]), (1.0, 1.0, 0.9, 0.8, 0.5), strict=True):
        it["tasks"] = [{"task": "sums", "accuracy": share, "low": 0, "high": 1, "p_value": 0.5}]
    found = verdict(run_of(document, "run.json"), Gates(min_task_accuracy=0.85))
    assert found.model.file == "m-Q5_0.gguf"  # type: ignore[union-attr]
    assert found.failed["m-Q2_K.gguf"] == ["sums: 50.0% right, at least 85%"]


def test_a_figure_that_is_no_number_keeps_no_limit(document: dict[str, Any]):
    document["models"][3]["kl_divergence"]["mean"] = None  # what NaN becomes in JSON
    found = verdict(run_of(document, "run.json"), Gates(max_kld=100.0))
    assert found.model.file == "m-Q4_K_M.gguf"  # type: ignore[union-attr]
    assert found.failed == {"m-Q2_K.gguf": ["its KL divergence is no number"]}


def test_a_verdict_within_the_error_is_doubted(document: dict[str, Any]):
    document["models"][2]["kl_divergence"] |= {"mean": 0.049, "standard_error": 0.001}
    assert "more text" in verdict(run_of(document, "run.json")).doubt
    assert "more text" in render([run_of(document, "run.json")])
    document["models"][2]["kl_divergence"] |= {"standard_error": 0.0001}
    assert verdict(run_of(document, "run.json")).doubt == ""


def speed_row(file: str, prompt: int, generated: int, samples: list[float], **more: Any) -> dict[str, Any]:
    row = {"model_filename": f"/models/{file}", "n_prompt": prompt, "n_gen": generated, "n_depth": 0}
    return row | {"avg_ts": sum(samples) / len(samples), "samples_ts": samples, "model_type": "llama"} | more


@pytest.mark.parametrize("lines", [False, True])
def test_speeds_are_drawn_with_their_spread(document: dict[str, Any], tmp_path: Path, *, lines: bool):
    """As `ggufkit bench` writes them, and llama-bench, whose rows have no figures of ours."""
    rows = [
        speed_row("m-F16.gguf", 512, 0, [90.0, 100.0, 130.0], peak_bytes=10**8, load_seconds=1, first_token_seconds=2),
        speed_row("m-Q4_K_M.gguf", 512, 0, [190.0, 200.0, 210.0]),
        speed_row("m-Q4_K_M.gguf", 0, 128, [20.0, 30.0, 31.0], n_depth=256),
        speed_row("another.gguf", 0, 128, [20.0]),
    ]
    run, bench = tmp_path / "run.json", tmp_path / "bench.json"
    run.write_text(json.dumps(document))
    bench.write_text("".join(json.dumps(row) + "\n" for row in rows) if lines else json.dumps(rows))
    page = render(read_all([bench, run]))
    assert "Reading a prompt of 512 tokens" in page
    assert "Generating 128 tokens, 256 tokens in the context before" in page
    assert "F16 100/s, 90/s to 130/s; Q4_K_M 200/s, 190/s to 210/s" in page
    assert "Measured: the most that a process held, at the first reply to a prompt of 128 tokens." in page
    assert "one pass" not in page


def test_speeds_alone_or_of_other_files_are_refused(document: dict[str, Any], tmp_path: Path):
    run, bench = tmp_path / "run.json", tmp_path / "bench.json"
    run.write_text(json.dumps(document))
    bench.write_text(json.dumps([speed_row("another.gguf", 512, 0, [1.0])]))
    with pytest.raises(InputError, match="speeds only"):
        read_all([bench])
    with pytest.raises(InputError, match=r"speeds of another\.gguf, none of which"):
        read_all([run, bench])
    bench.write_text(json.dumps([speed_row("m-F16.gguf", 512, 0, [1.0], peak_bytes="much")]))
    with pytest.raises(InputError, match="malformed"):
        read_all([run, bench])


def test_memory_is_stacked_and_said_to_be_planned(document: dict[str, Any]):
    parts = {"weights": 600_000, "repacked": 100_000, "cache": 200_000, "compute": 50_000, "process": 0}
    document["models"][2]["memory"] = {"context_size": 4096, **parts}
    page = render([run_of(document, "run.json")])
    said = "Q4_K_M 950 kB: weights 600 kB, second copy 100 kB, KV cache 200 kB, compute 50 kB, program 0 B"
    assert said in page
    assert "Planned, not measured" in page
    assert "4,096 tokens" in page


def test_other_systems_stand_beside_the_files(document: dict[str, Any]):
    ran = {"name": "torch-fp32", "title": "transformers, fp32", "origin": "here", "why": None, "peak_bytes": 10**9}
    ran |= {"weight_bytes": 4 * 10**6, "prompt": {"median": 321.0}, "generation": {"median": 12.0}, "tasks": []}
    ran |= {"perplexity": {"value": 4.9, "standard_error": 0.1}, "kl_divergence": {"mean": 0.002}, "same_text": True}
    away = ran | {"name": "vllm", "title": "vLLM", "origin": "elsewhere", "device": "a GPU", "same_text": False}
    lacking = {"name": "x", "title": NASTY, "origin": "not run", "why": "needs <AVX-512>", "tasks": []}
    document["baselines"] = [ran, away, lacking]
    page = render([run_of(document, "run.json")])
    table = page[page.index("Beside other systems</h2>") :]
    for cell in ("transformers, fp32", "4 MB", "1 GB", "321/s", "12/s", "needs &lt;AVX-512&gt;", "vLLM on a GPU"):
        assert cell in table
    assert "*: of another text" in table
    assert "<script>alert" not in page


def test_what_is_needed_to_measure_again_is_there(document: dict[str, Any]):
    document |= {"command": "ggufkit eval a b -f 'my text'", "python": "3.12.1", "llama_cpp": {"commit": "abc"}}
    document["machine"] = {"cpu": "A CPU", "cores": 2, "memory": 24 * 10**9, "system": "Linux"}
    document["settings"] = {"chunk_tokens": 512, "threads": 2, "rpc_servers": []}
    document["base"]["files"] = {"m-00001-of-00002.gguf": "2" * 64, "m-00002-of-00002.gguf": "3" * 64}
    page = render([run_of(document, "run.json")])
    block = page[page.index("To measure it again") : page.index("application/json")]
    for words in ("eval a b -f", "3.12.1", "commit abc", "A CPU, 2 cores, 24 GB of memory", "threads 2"):
        assert words in block
    for digest in ("0" * 64, "1" * 64, "2" * 64, "3" * 64):
        assert digest in block


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


@pytest.fixture
def full(document: dict[str, Any]) -> dict[str, Any]:
    """A document with something in every part of the page, and nasty names."""
    said = {"text": "one three " + NASTY, "tokens": 3, "agreement": {"tokens": 1, "of_tokens": 3, "same": False}}
    document["generations"] = [
        {"prompt": prompt, "base": {"text": "one two three"}, "replies": [said] * 4} for prompt in ("a", NASTY)
    ]
    task = {"task": NASTY, "accuracy": 0.5, "low": 0.4, "high": 0.6, "p_value": 0.5}
    memory = {"context_size": 4096, "weights": 9**6, "repacked": 9**5, "cache": 9**5, "compute": 9**5, "process": 9**6}
    for it in (document["base"], *document["models"]):
        it |= {"tasks": [task], "memory": memory}
    document["models"][1]["file"] = NASTY
    document["bench"] = [speed_row("m-Q8_0.gguf", 512, 0, [1.0, 2.0]), speed_row("m-F16.gguf", 0, 128, [1.0, 3.0])]
    document["baselines"] = [
        {"name": "x", "title": NASTY, "origin": "not run", "why": NASTY},
        {"name": "y", "title": "Y", "origin": "here", "why": None, "peak_bytes": 10**9, "generation": {"median": 2}},
    ]
    return document


def test_the_page_is_well_formed_and_asks_for_nothing(full: dict[str, Any]):
    """As its own eyes see it, and as html5lib's strict parser does, which takes nothing that the standard refuses."""
    import html5lib

    run = run_of(full, "run.json")
    page = render([run, run_of(copy.deepcopy(full), "other.json")])
    html5lib.HTMLParser(strict=True).parse(page)
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    for word in ("http:", "https:", "src=", "href=", "@import", "url("):
        assert word not in page
    assert len(page) < 1_500_000


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("no json", "is no JSON"),
        ("", "is no JSON"),
        ("{}", "no result"),
        ('{"kind": "speed", "schema_version": 1}', "no result"),
        ('{"kind": "evaluation", "schema_version": 1, "base": {}, "models": []}', "malformed"),
        ("[]", "no result"),
        ("[" * 200_000, "no JSON"),
        ('{"kind": "evaluation", "schema_version": 99}', "schema version 99"),
        ('{"kind": "evaluation", "schema_version": 1, "base": 3, "models": []}', "malformed"),
    ],
)
def test_what_is_no_result_is_refused(content: str, reason: str, tmp_path: Path):
    path = tmp_path / "run.json"
    path.write_text(content)
    with pytest.raises(InputError, match=reason):
        read_run(path)


@pytest.mark.parametrize(
    "row",
    [
        bench_row("m-Q8_0.gguf", [10**400]),
        bench_row("m-Q8_0.gguf", [float("nan")]),
        bench_row("m-Q8_0.gguf", [1.0], peak_bytes=float("inf")),
        bench_row("m-Q8_0.gguf", [1.0], load_seconds=-1),
    ],
)
def test_speeds_that_are_none_are_refused(row: dict[str, Any], document: dict[str, Any]):
    document["bench"] = [row]
    with pytest.raises(InputError, match="speeds that are malformed"):
        run_of(document, "run.json")


def test_odd_numbers_are_drawn(document: dict[str, Any]):
    document["bench"] = [bench_row("of-no-model.gguf", [1.0])]
    document["models"][0]["kl_divergence"] |= {"mean": 5e-324, "curve": [[0, float("inf")], [50, 1e-320]]}
    assert '"nan"' not in render([run_of(document, "run.json")])


def test_half_a_character_becomes_a_sign_of_it(document: dict[str, Any], tmp_path: Path):
    """JSON can spell a lone surrogate, which no file in UTF-8 can hold."""
    document["command"] = "ggufkit eval \ud800 b"
    path = tmp_path / "run.json"
    path.write_text(json.dumps(document))
    page = render([read_run(path)]).encode().decode()
    assert re.search("ggufkit eval \ufffd+ b", page)


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


def test_whatever_changed_is_found(document: dict[str, Any]):
    document["bench"] = [bench_row("m-Q5_0.gguf", [100.0, 101.0])]
    document["generations"] = [{"prompt": "hi", "base": {"text": "a"}, "replies": [{"text": "b"}] * 4}]
    newer = copy.deepcopy(document)
    newer["base"]["perplexity"]["value"] = 9.0
    changed = newer["models"][1]
    changed["kl_divergence"] |= {"max": 99.0, "percentiles": {"99.9": 50.0}}
    changed["delta_p"]["rms"]["value"] = 0.5
    changed["memory"] = {"weights": 5, "context_size": 10}
    changed["failed"] = ["too large"]
    newer["bench"] = [bench_row("m-Q5_0.gguf", [50.0, 51.0])]
    newer["generations"][0]["replies"] = [{"text": "b"}, {"text": "GARBAGE"}, {"text": "b"}, {"text": "b"}]
    found = compare(run_of(document, "old"), run_of(newer, "new"))
    assert [figure.name for figure in found.base.moved] == ["perplexity"]
    assert [change.file for change in found.changes if change.moved] == ["Q5_0"]
    assert [figure.name for figure in found.changes[1].moved] == [
        *("99.9 %", "largest", "RMS Δp", "memory planned", "pp16, tokens/s", "limits failed", "replies changed")
    ]
    assert [figure.name for figure in found.changes[1].moved if figure.clear] == ["pp16, tokens/s"]


def test_models_are_found_again_by_hash_name_and_type(document: dict[str, Any]):
    kinds = [model("Q4_K_M", 5, 0.1, file=name, sha256=digest * 64) for name, digest in (("a", "1"), ("b", "2"))]
    document["models"] = [*kinds, model("Q2_K", 3, 0.3, file="c", sha256="3" * 64)]
    newer = copy.deepcopy(document)
    newer["models"][0] |= {"file": "renamed"}
    newer["models"][1] |= {"sha256": "5" * 64}
    newer["models"][2] |= {"file": "other", "sha256": "6" * 64}
    found = compare(run_of(document, "old"), run_of(newer, "new"))
    assert [(it.old and it.old.file, it.new and it.new.file) for it in found.changes] == [
        *(("a", "renamed"), ("b", "b"), ("c", "other"))
    ]


def test_the_command_says_what_changed(
    document: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    newer = copy.deepcopy(document)
    newer["models"][2]["kl_divergence"]["mean"] = 0.05
    newer["models"][2]["bytes"] = 700_000
    del newer["models"][0]
    newer["llama_cpp"] = {"commit": "def"}
    document["llama_cpp"] = {"commit": "abc"}
    for name, content in (("old.json", document), ("new.json", newer)):
        (tmp_path / name).write_text(json.dumps(content))
    monkeypatch.setattr(
        sys, "argv", ["ggufkit", "report", "--compare", *(str(tmp_path / f"{n}.json") for n in ("old", "new"))]
    )
    with pytest.raises(SystemExit) as ended:
        cli.main()
    printed = capsys.readouterr()
    assert not ended.value.code
    assert "llama.cpp, commit: abc and def" in printed.err
    assert printed.out.splitlines() == [
        "Q8_0: gone",
        "Q5_0: the same",
        "Q4_K_M:",
        "  size                  600,000 ->      700,000  +100,000",
        "  KL divergence        0.010000 ->     0.050000  +0.040000  (clear)",
        "Q2_K: the same",
    ]


@pytest.mark.slow
@pytest.mark.skipif(browser.why_not() is not None, reason=str(browser.why_not()))
def test_a_browser_draws_it_sorts_it_and_fetches_nothing(document: dict[str, Any], tmp_path: Path):
    document["models"][1]["file"] = NASTY
    path = tmp_path / "page.html"
    path.write_text(render([run_of(document, "run.json")]))
    with browser.browser() as window:
        window.open(path.as_uri())
        heights = window.run("return [...document.querySelectorAll('svg')].map(s => s.getBoundingClientRect().height)")
        assert len(heights) == 4
        assert min(heights) > 50
        assert window.run("return document.querySelectorAll('script').length") == 2
        first = "return document.querySelector('table.sortable tbody th').textContent"
        size = "table.sortable thead th:nth-child(3)"
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


LOOKS = {"light": {}, "dark": {"dark": True}, "phone": {"width": 390}, "print": {"media": "print", "width": 700}}


@pytest.mark.slow
@pytest.mark.oracle
@pytest.mark.skipif(browser.why_not() is not None, reason=str(browser.why_not()))
@pytest.mark.skipif(page_checks.axe() is None, reason="needs axe-core (scripts/setup --test, or $GGUFKIT_AXE)")
def test_axe_finds_nothing_that_keeps_people_out(full: dict[str, Any], tmp_path: Path):
    path, script = tmp_path / "page.html", page_checks.axe()
    path.write_text(render([run_of(full, "run.json")]))
    assert script
    with browser.browser() as window:
        for look in LOOKS.values():
            window.show_as(**look)
            window.open(path.as_uri())
            window.run("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
            assert window.run("return document.documentElement.scrollWidth <= innerWidth"), look
            assert page_checks.faults_for_people(window, script) == [], look


@pytest.mark.oracle
@pytest.mark.skipif(page_checks.validator() is None, reason="needs the W3C's validator ($GGUFKIT_VNU) and Java")
def test_the_validator_has_no_complaint(full: dict[str, Any], tmp_path: Path):
    path, command = tmp_path / "page.html", page_checks.validator()
    path.write_text(render([run_of(full, "run.json"), run_of(copy.deepcopy(full), "other.json")]))
    assert command
    assert page_checks.faults_by_validator(command, path) == ""


def test_a_text_that_models_were_calibrated_with_is_warned_of(document: dict[str, Any]):
    shared = {"text": "<prose>", "calibration": "c.txt", "share": 0.25, "too_much": True}
    little = {"text": "other", "calibration": "c.txt", "share": 0.0005, "too_much": False}
    document["calibration"] = {"checked": ["c.txt"], "shared": [shared, little], "not_here": {}}
    page = render([run_of(document, "run")])
    assert "25.00% of &lt;prose&gt; is in c.txt, which a model was calibrated with" in page
    assert "of other is in" not in page
    document["calibration"] = {"shared": [None, {"too_much": True}]}
    assert "calibrated with" not in render([run_of(document, "run")])
