"""`ggufkit imatrix` and `quantize --imatrix auto`, as people use them, on the demo model."""

import json
from pathlib import Path

import pytest
import tiny_gguf
from command_runs import Run

from ggufkit.conversion import convert
from ggufkit.gguf_file.reader import read_header
from ggufkit.quantization.imatrix import coverage

pytestmark = pytest.mark.engine

DEMO = Path(__file__).parents[2] / "ggufkit" / "demo_model"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model in F16; tests must not change it."""
    path = tmp_path_factory.mktemp("demo") / "demo-F16.gguf"
    convert(DEMO, path)
    return path


@pytest.fixture
def here(tmp_path: Path, demo: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the demo model in it."""
    (tmp_path / "demo-F16.gguf").hardlink_to(demo)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_texts_and_chats_become_a_matrix(ggufkit: Run, here: Path):
    chats = [
        {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"What is {n} + 1?"}]}
        for n in range(40)
    ]
    (here / "chats.jsonl").write_text("\n".join(map(json.dumps, chats)))
    (here / "text.txt").write_text((DEMO / "heldout.txt").read_text()[:20_000])
    ran = ggufkit(
        "imatrix", "demo-F16.gguf", "-f", "text.txt", "-f", "chats.jsonl", "-c", 64, "--chunks", 4, "--save-text", "t"
    )
    assert ran.code == 0, ran.err
    assert "40 of them chats" in ran.err
    assert ran.out.startswith("demo-F16-imatrix.gguf: 28 tensors from 4 chunks, perplexity ")
    assert "all 28 tensors of the blocks were reached" in ran.out
    assert "<|im_start|>user" in (here / "t").read_text()
    assert read_header(here / "demo-F16-imatrix.gguf").metadata["imatrix.datasets"] == ["text.txt+1"]
    again = ggufkit(
        "imatrix", "demo-F16.gguf", "-f", "chats.jsonl", "-f", "text.txt", "-c", 64, "--chunks", 4, "--save-text", "u"
    )
    assert again.code == 0
    assert (here / "t").read_bytes() == (here / "u").read_bytes()
    document = json.loads(ggufkit("imatrix", "demo-F16.gguf", "-f", "t", "-c", 64, "--chunks", 2, "--json").out)
    assert (document["chunks"], document["coverage"]["is_complete"]) == (2, True)


def test_the_model_writes_its_own_text(ggufkit: Run, here: Path):
    for name in ("one", "two"):
        ran = ggufkit("imatrix", "demo-F16.gguf", "--self", "-c", 64, "--chunks", 2, "--save-text", name, "-q")
        assert (ran.code, ran.out, ran.err) == (0, "demo-F16-imatrix.gguf\n", "")
    assert (here / "one").read_text() == (here / "two").read_text()  # the seed decides
    assert "<|im_start|>assistant" in (here / "one").read_text()


def test_merging_and_statistics(ggufkit: Run, here: Path):
    matrix = tiny_gguf.write_imatrix(here / "a.gguf")
    ran = ggufkit("imatrix", "--in-file", matrix, "--in-file", matrix, "-o", "b.gguf")
    assert ran.code == 0, ran.err
    assert coverage(here / "b.gguf") == coverage(matrix)
    lines = ggufkit("imatrix", "--show-statistics", "b.gguf").out.splitlines()
    assert lines[1].startswith("blk.0.attn_k.weight ")
    rows = json.loads(ggufkit("imatrix", "--show-statistics", "--in-file", "b.gguf", "--json").out)["statistics"]
    assert len(rows) == len(coverage(matrix))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "no model is given"),
        (["demo-F16.gguf"], 2, "no text is given to read"),
        (["missing.gguf", "--self"], 3, "no such file"),
        ([str(DEMO), "--self"], 3, "a checkpoint folder"),
        (["demo-F16.gguf", "-f", "nothing.txt"], 3, "no such file or folder: nothing.txt"),
        (["--show-statistics"], 2, "no matrix is given"),
        (["--show-statistics", "demo-F16.gguf"], 3, "but no importance matrix"),
    ],
)
def test_refusals_are_one_line(arguments: list[str], code: int, message: str, ggufkit: Run, here: Path):
    ran = ggufkit("imatrix", *arguments)
    assert ran.code == code
    assert message in ran.err
    assert ran.err.startswith("error: ")
    assert [path.name for path in here.iterdir()] == ["demo-F16.gguf"]


def test_quantize_makes_the_matrix_that_a_type_wants_once(ggufkit: Run, here: Path):
    (here / "text.txt").write_text((DEMO / "heldout.txt").read_text()[:30_000])
    refused = ggufkit("quantize", "IQ2_XS", "demo-F16.gguf")
    assert refused.code == 2
    assert "ggufkit imatrix demo-F16.gguf -f TEXT" in refused.err
    ran = ggufkit("quantize", "IQ2_XS", DEMO, "-o", here, "--imatrix", "auto", "-f", "text.txt")
    assert ran.code == 0, ran.err
    assert "demo_model-imatrix.gguf for IQ2_XS; all 28 tensors of the blocks were reached" in ran.err
    header = read_header(here / "demo_model-IQ2_XS.gguf")
    assert header.metadata["quantize.imatrix.dataset"] == "text.txt"
    ran = ggufkit("quantize", "Q2_K", DEMO, "-o", here, "--imatrix", "auto", "-f", "text.txt")
    assert "which an earlier run made" in ran.err
    none = ggufkit("quantize", "Q8_0", DEMO, "-o", here / "q8.gguf", "--imatrix", "auto")
    assert "none of these types gains from one" in none.err
    assert not [path for path in here.iterdir() if "part" in path.name]
    planned = ggufkit("quantize", "IQ2_XS", "demo-F16.gguf", "--imatrix", "auto", "--dry-run")
    assert planned.code == 2
    assert "--dry-run makes none" in planned.err


def test_keep_in_hugging_faces_words(ggufkit: Run, here: Path):
    ran = ggufkit("quantize", "Q4_K_M", DEMO, "-o", "k.gguf", "--keep", "lm_head,layers.0-1.mlp.down_proj,norm=q8_0")
    assert ran.code == 0, ran.err
    types = {tensor.name: tensor.type.name for tensor in read_header(here / "k.gguf").tensors}
    plain = json.loads(ggufkit("quantize", "Q4_K_M", DEMO, "-o", here, "--dry-run", "--json").out)["results"][0]
    recipe = {tensor["name"]: tensor["type_after"] for tensor in plain["tensors"]}
    kept = ("token_embd.weight", "blk.0.ffn_down.weight", "blk.1.ffn_down.weight")
    assert types == recipe | dict.fromkeys(kept, "Q8_0")
    assert "tied to the embeddings" in ran.out
    ran = ggufkit("quantize", "Q4_K_M", DEMO, "--keep", "mlp.dwon_proj=q8_0")
    assert ran.code == 2
    assert "did you mean down_proj" in ran.err
