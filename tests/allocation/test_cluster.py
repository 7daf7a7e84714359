"""Measuring on a real Ray cluster of several nodes on this machine: the same figures, also when a node dies."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import random_models

from ggufkit.allocation import targets
from ggufkit.allocation.cluster import Cluster
from ggufkit.allocation.ledger import Ledger
from ggufkit.allocation.measuring import Measurer, Setting
from ggufkit.allocation.optimize import Job, optimize
from ggufkit.allocation.options import Effort, OptimizeOptions
from ggufkit.allocation.texts import Document, Use, deal
from ggufkit.errors import InputError, LlamaCppError, UsageError
from ggufkit.evaluation.likelihood import passes
from ggufkit.evaluation.likelihood.passes import Running
from ggufkit.evaluation.likelihood.texts import cut_into_chunks
from ggufkit.gguf_file.reader import read_header
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.quantization.options import QuantizeOptions

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


def test_candidates_are_made_and_read_by_the_nodes(
    nodes: Any, setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes.add_node(**SETTINGS)
    nodes.add_node(**SETTINGS)
    nodes.wait_for_nodes()
    passages = tuple(random_models.text(6000).split("\n\n"))
    dealt = deal([Document("held out", passages)], [Use.PROBING, Use.CHOOSING])
    found = []
    for workers in (None, nodes.address):
        folder = tmp_path / ("elsewhere" if workers else "here")
        folder.mkdir()
        options = OptimizeOptions(
            effort=Effort.FAST,
            pool="k-quants",
            chunk_tokens=64,
            quantize=QuantizeOptions(threads=1),
            running=setting.running,
            folder=folder / "state",
            workers=workers,
        )
        job = Job(targets.like("Q4_K_M"), folder / "made.gguf")
        found.append(optimize(setting.sources[0], [job], dealt, options))
        # From here on no candidate may be read on this machine.
        monkeypatch.setattr("ggufkit.allocation.verification.children_side_by_side", None)
    here, there = ({each.candidate.name: each.measured.chunks for each in one.files[0].verified} for one in found)
    assert here == there
    assert found[0].files[0].types == found[1].files[0].types


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
