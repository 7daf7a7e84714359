"""Every figure that llama-perplexity prints comes out here, to its last digit; its files and ours are the same."""

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from ggufkit.evaluation.evaluate import EvaluationOptions, evaluate
from ggufkit.evaluation.evaluation_results import Evaluation
from ggufkit.evaluation.likelihood.logits_file import open_logits_file
from ggufkit.evaluation.likelihood.passes import Running
from ggufkit.llamacpp.find import find

pytestmark = [pytest.mark.engine, pytest.mark.oracle]

CHUNKS = 6
NAME = r"(?P<name>[A-Z\d .%][\w .,%()/Δ-]*?)"
LINE = re.compile(rf"^{NAME} *: +(?P<value>[-\d.]+)%?(?: ± +(?P<error>[\d.]+))?")


def llama_perplexity(model: Path, *arguments: object) -> str:
    """Run it by hand; it sometimes loses the end of what it prints, so more than once if need be."""
    command = [find().tool("llama-perplexity"), "-m", model, "-t", "2", *map(str, arguments)]
    for _ in range(10):
        ran = subprocess.run(command, capture_output=True, text=True, check=True)
        text = ran.stdout + ran.stderr
        if "Same top p:" in text or ("Final estimate" in text and "--kl-divergence" not in command):
            return text
    raise AssertionError("llama-perplexity lost its result ten times")


@pytest.fixture(scope="module")
def theirs(demo_models: Mapping[str, Path], held_out: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    base = tmp_path_factory.mktemp("theirs") / "base.kld"
    said = {"base": llama_perplexity(
        demo_models["F16"], "-f", held_out, "-c", 512, "--chunks", CHUNKS, "--kl-divergence-base", base
    )}  # fmt: skip
    for kind in ("Q8_0", "Q4_K_M", "Q2_K"):
        said[kind] = llama_perplexity(demo_models[kind], "--kl-divergence-base", base, "--kl-divergence")
    said["file"] = str(base)
    return said


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ours") / "base.kld"


@pytest.fixture(scope="module")
def ours(demo_models: Mapping[str, Path], held_out: Path, kept: Path) -> Evaluation:
    options = EvaluationOptions(chunks=CHUNKS, folder=kept.parent, keep_logits=kept, running=Running(threads=2))
    kinds = ("Q8_0", "Q4_K_M", "Q2_K")
    return evaluate(demo_models["F16"], [demo_models[kind] for kind in kinds], [held_out], options)


def printed(text: str) -> dict[str, tuple[str, str | None]]:
    found = {}
    for line in text.splitlines():
        if match := LINE.match(line.strip()):
            found[re.sub(r" +", " ", match["name"]).strip()] = (match["value"], match["error"])
    return found


def test_the_bases_perplexity(ours: Evaluation, theirs: dict[str, str]):
    found = re.search(r"Final estimate: PPL = ([\d.]+) \+/- ([\d.]+)", theirs["base"])
    assert found
    perplexity = ours.base.likelihood.perplexity
    assert (f"{perplexity.value:.4f}", f"{perplexity.standard_error:.5f}") == found.groups()


@pytest.mark.parametrize("number", range(3), ids=["Q8_0", "Q4_K_M", "Q2_K"])
def test_what_is_printed(number: int, ours: Evaluation, theirs: dict[str, str]):
    model = ours.models[number]
    said, it = printed(theirs[model.facts.type]), model.divergence
    assert it
    wanted = {
        "Mean PPL(Q)": (it.likelihood.perplexity, 6, 1),
        "Mean PPL(base)": (it.base.perplexity, 6, 1),
        "Mean ln(PPL(Q)/PPL(base))": (it.log_ratio, 6, 1),
        "Mean PPL(Q)/PPL(base)": (it.perplexity_ratio, 6, 1),
        "Mean KLD": (it.mean_kld, 6, 1),
        "Mean Δp": (it.mean_delta_p, 3, 100),
        "RMS Δp": (it.rms_delta_p, 3, 100),
        "Same top p": (it.same_top, 3, 100),
    }
    for name, (estimate, digits, times) in wanted.items():
        value, error = said[name]
        assert error is not None
        # The last digit may round the other way, and numpy's exp is not libm's to the last bit of a float32.
        assert estimate.value * times == pytest.approx(float(value), abs=1.5 * 10**-digits, rel=1e-6), name
        assert estimate.standard_error * times == pytest.approx(float(error), abs=1.5 * 10**-digits), name
    percentiles = {"Maximum KLD": it.max_kld, "Median KLD": it.median_kld, "Minimum KLD": it.min_kld}
    percentiles |= {f"{percent:.1f}% KLD": value for percent, value in it.percentiles.items() if percent != 50}
    for name, value in percentiles.items():
        assert value == pytest.approx(float(said[name][0]), abs=1.5e-6, rel=1e-6), name
    assert it.correlation == pytest.approx(float(said["Cor(ln(PPL(Q)), ln(PPL(base)))"][0]) / 100, abs=1e-4)


@pytest.mark.usefixtures("ours")
def test_its_file_of_log_probabilities_is_ours(theirs: dict[str, str], demo_models: Mapping[str, Path], kept: Path):
    mine, other = open_logits_file(kept), open_logits_file(Path(theirs["file"]))
    assert mine.tokens() == other.tokens()
    assert (mine.chunk_tokens, mine.vocabulary_size, mine.chunks) == (other.chunk_tokens, other.vocabulary_size, 6)
    with kept.open("rb") as one, Path(theirs["file"]).open("rb") as two:
        for chunk in range(CHUNKS):
            here, there = mine.rows(one, chunk), other.rows(two, chunk)
            close = abs(here[:, 4:].astype(int) - there[:, 4:].astype(int)) <= 1
            assert close.all()
    # And the tool takes it.
    assert "Mean    KLD:" in llama_perplexity(demo_models["Q8_0"], "--kl-divergence-base", kept, "--kl-divergence")
