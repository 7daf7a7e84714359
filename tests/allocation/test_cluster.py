"""Measuring on a real Ray cluster of several nodes on this machine: the same figures, also when a node dies."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import random_models

from ggufkit.allocation.cluster import Cluster
from ggufkit.allocation.ledger import Ledger
from ggufkit.allocation.measuring import Measurer, Setting
from ggufkit.errors import InputError, LlamaCppError, UsageError
from ggufkit.evaluation.likelihood import passes
from ggufkit.evaluation.likelihood.passes import Running
from ggufkit.evaluation.likelihood.texts import cut_into_chunks
from ggufkit.gguf_file.reader import read_header
from ggufkit.gguf_file.tensor_types import TensorType

ray = pytest.importorskip("ray", reason="pip install 'ggufkit[cluster]' brings Ray, which is large")

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.fault]

SETTINGS = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    from ray.cluster_utils import Cluster as Machines

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, [Path(__file__).parents[2], *sys.path[1:]])))
    machines = Machines(initialize_head=True, head_node_args={**SETTINGS, "num_cpus": 0})
    try:
        yield machines
    finally:
        ray.shutdown()
        machines.shutdown()


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    folder = tmp_path_factory.mktemp("model")
    model = random_models.write(folder / "model-F16.gguf")
    text = folder / "text.txt"
    text.write_text(random_models.text(4000))
    running = Running(threads=1)
    tokens = passes.tokenize(model, [text], folder, running)
    count = read_header(model).metadata.entries["tokenizer.ggml.tokens"].count
    chunks = cut_into_chunks([text], tokens, count, length=64, chunks=4)
    return Setting((model,), chunks, None, (), (), running, "as always")


@pytest.fixture(scope="module")
def questions(setting: Setting) -> list[dict[str, TensorType]]:
    tensors = read_header(setting.sources[0]).tensors
    return [{tensor.name: TensorType.Q3_K} for tensor in tensors if len(tensor.shape) > 1]


@pytest.fixture(scope="module")
def here(setting: Setting, questions: list[dict[str, TensorType]], tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("here")
    with Measurer(setting, Ledger(folder / "ledger"), folder / "work") as measurer:
        return [each.chunks for each in measurer.measure(questions)]


def test_nodes_find_what_this_machine_finds_also_when_one_dies(
    nodes: Any, setting: Setting, questions: list[dict[str, TensorType]], here: Any, tmp_path: Path
) -> None:
    doomed, _ = nodes.add_node(**SETTINGS), nodes.add_node(**SETTINGS)
    nodes.wait_for_nodes()
    killed = []

    def progress(stage: str, done: int, _total: int, _unit: str = "") -> None:
        if stage == "Measuring" and done >= 2 and not killed:
            killed.append(done)
            nodes.remove_node(doomed, allow_graceful=False)

    ledger = Ledger(tmp_path / "ledger")
    with Cluster(nodes.address) as cluster, Measurer(setting, ledger, tmp_path / "work", cluster) as measurer:
        found = measurer.measure(questions, progress)
        assert killed
        assert len(cluster.nodes) == 1
        assert [each.chunks for each in found] == here
        assert measurer.measure(questions) == found  # from the ledger, by no node
    assert not list(tmp_path.glob("work/scratch-*"))


def test_what_a_node_refuses_and_the_loss_of_all_nodes_are_told(
    nodes: Any, setting: Setting, questions: list[dict[str, TensorType]], tmp_path: Path
) -> None:
    only = nodes.add_node(**SETTINGS)
    nodes.wait_for_nodes()
    with Cluster(nodes.address) as cluster:
        matrix = tmp_path / "no-matrix.gguf"
        matrix.write_bytes(b"nothing")
        broken = Setting(setting.sources, setting.chunks, matrix, (), (), setting.running, "broken")
        with (
            Measurer(broken, Ledger(tmp_path / "ledger"), tmp_path / "work", cluster) as measurer,
            pytest.raises(InputError, match=r"no-matrix\.gguf"),
        ):
            measurer.measure(questions)
        nodes.remove_node(only, allow_graceful=False)
        with (
            Measurer(setting, Ledger(tmp_path / "ledger"), tmp_path / "more", cluster) as measurer,
            pytest.raises(LlamaCppError, match="no node of the cluster is left"),
        ):
            measurer.measure(questions)


def test_no_cluster_at_an_address() -> None:
    with pytest.raises(UsageError, match="no Ray cluster answers at 127"):
        Cluster("127.0.0.1:1")
