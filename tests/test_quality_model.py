"""What quality is measured with: twins with outliers compute the same, texts are made again alike and share nothing."""

from pathlib import Path

import numpy as np
import pytest

from ggufkit.evaluation.overlap import LIMIT, shared_windows

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"


@pytest.fixture(autouse=True)
def _scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))


@pytest.mark.oracle
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_a_twin_computes_the_same_function_with_outliers(tied: bool) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    from quality_model.twins import inject_outliers

    config = {
        "head_dim": 16,
        "hidden_size": 128,
        "intermediate_size": 256,
        "max_position_embeddings": 64,
        "num_attention_heads": 8,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "tie_word_embeddings": tied,
        "vocab_size": 100,
    }
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config)).eval()
    weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
    ids = torch.randint(0, 100, (2, 40))
    with torch.no_grad():
        before = model(ids).logits
        twin = inject_outliers(weights, config, seed=3)
        model.load_state_dict(twin)
        after = model(ids).logits
    assert torch.allclose(before, after, atol=1e-5)
    changed = [name for name in weights if not torch.equal(weights[name], twin[name])]
    assert len(changed) == 2 * 9 + (0 if tied else 2)
    assert 8 <= twin["model.layers.0.input_layernorm.weight"].max() <= 32


def test_texts_are_made_again_alike_and_share_no_passages(tmp_path: Path) -> None:
    import importlib.machinery
    import importlib.util

    from quality_model.texts import Writer
    from quality_model.world import World

    loader = importlib.machinery.SourceFileLoader("train_quality_model", str(SCRIPTS / "train-quality-model"))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec
    script = importlib.util.module_from_spec(spec)
    loader.exec_module(script)
    for name in ("first", "second"):
        script.write_texts(tmp_path / name, Writer(World()))
    words = {}
    for path in sorted((tmp_path / "first").iterdir()):
        content = path.read_text()
        assert content == (tmp_path / "second" / path.name).read_text()
        words[path.stem] = [hash(word) for word in content.split()]
    assert set(words) == set(script.TEXTS)
    tokens = {name: np.array(each, np.int64) for name, each in words.items()}
    for kept in (name for name in tokens if name.startswith("test-")):
        for used in ("calibration", "development"):
            assert shared_windows(tokens[kept], tokens[used]) < LIMIT
