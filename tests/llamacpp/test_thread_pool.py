"""The threads that a context computes with: one pool for all, or a second one for batches; none where ggml has none."""

import pytest

from ggufkit.llamacpp.native import thread_pool
from ggufkit.llamacpp.native.thread_pool import ThreadPools


@pytest.mark.engine
def test_batches_with_another_number_of_threads_have_a_pool_of_their_own() -> None:
    counts = []
    for threads, threads_batch in ((2, 2), (1, 2)):
        pools = ThreadPools(threads, threads_batch)
        counts.append(len(pools._pools))
        pools.close()
        counts.append(len(pools._pools))

    assert counts == [1, 0, 2, 0]


@pytest.mark.engine
def test_a_build_without_pools_computes_without_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread_pool, "_function", lambda *_: None)

    pools = ThreadPools(2, 2)
    pools.attach(None)  # would end the process if it reached llama.cpp
    pools.close()

    assert not pools._pools
