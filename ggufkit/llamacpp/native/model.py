"""The weights of a GGUF file in memory, and adapters that change them."""

import ctypes
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ggufkit.errors import GgufFileError
from ggufkit.llamacpp import binding
from ggufkit.llamacpp.native import placement as placing
from ggufkit.llamacpp.native.guard import guarded
from ggufkit.llamacpp.native.library import library, log_excerpt
from ggufkit.llamacpp.native.placement import LOAD_MODES, Placement
from ggufkit.llamacpp.native.signals import signals_held
from ggufkit.llamacpp.native.vocabulary import Vocabulary


class Model:
    """The weights and the vocabulary of a GGUF file, in memory."""

    def __init__(
        self,
        path: Path,
        *,
        gpu_layers: int = -1,
        placement: Placement | None = None,
        load_mode: str = "auto",
        check_tensors: bool = False,
        repack: bool = True,
        vocabulary_only: bool = False,
        on_progress: Callable[[float], None] | None = None,
    ) -> None:
        """Load a file. `gpu_layers` < 0 means all; `on_progress` gets the loaded fraction, 0 to 1.

        A `placement` says more than `gpu_layers`, and takes its place. `load_mode` is a key of LOAD_MODES.
        Without `repack` weights stay in the file's order, also where the CPU has a faster one.

        Raises:
            GgufFileError: llama.cpp cannot load it; the message quotes its log.
            UsageError: the placement names what is not there.
            WorkerError: another machine cannot be used.
            LlamaCppError: another machine left while the weights were sent.
            MissingDependencyError: there is no llama.cpp to load it with.
        """
        placement = placement or Placement(gpu_layers=gpu_layers)
        self.lib: Any = library()
        self.handle: Any = None
        parameters = self.lib.llama_model_default_params()
        if placement.rpc_servers:
            self.lib = guarded(self.lib, placement.rpc_servers)
            kept = self.lib.run(placing.write, placement, parameters)
        else:
            kept = placing.write(placement, parameters)
        parameters.load_mode = LOAD_MODES[load_mode]
        parameters.check_tensors = check_tensors
        parameters.use_extra_bufts = repack
        parameters.vocab_only = vocabulary_only
        stopped = threading.Event()

        def report(fraction: float, _: Any) -> bool:
            if on_progress:
                on_progress(fraction)
            return not stopped.is_set()

        callback = self.lib.llama_progress_callback(report)
        parameters.progress_callback = callback
        logged = binding.log_position()
        try:
            with signals_held(stopped.set):
                self.handle = self.lib.llama_model_load_from_file(os.fsencode(path), parameters)
        except BaseException:
            self.close()
            raise
        finally:
            kept.clear()
        if not self.handle:
            raise GgufFileError(f"llama.cpp cannot load {path}: {log_excerpt(logged)}")
        if placement.rpc_servers:
            self.lib.notice_silence()
        self.vocabulary = Vocabulary(self.lib, self.handle)
        self.vocabulary_size = self.vocabulary.size

    def close(self) -> None:
        """Free the weights; every context made from them must have been closed before."""
        if self.handle:
            self.lib.llama_model_free(self.handle)
            self.handle = None

    def metadata(self, key: str) -> str | None:
        """Return the value of a scalar or string key as llama.cpp writes it as text; None when absent."""
        size = 256
        while True:
            buffer = ctypes.create_string_buffer(size)
            length: int = self.lib.llama_model_meta_val_str(self.handle, key.encode(), buffer, size)
            if length < 0:
                return None
            if length < size:
                return buffer.raw[:length].decode("utf-8", "replace")
            size = length + 1

    @property
    def description(self) -> str:
        """Describe the model in llama.cpp's words, such as `llama 8B Q4_K - Medium`.

        Sizes that it has no name for are counted.
        """
        buffer = ctypes.create_string_buffer(256)
        self.lib.llama_model_desc(self.handle, buffer, len(buffer))
        size = int(self.lib.llama_model_n_params(self.handle))
        counted = f"{size / 1e9:.1f}B" if size >= 1e9 else f"{size / 1e6:.1f}M"
        return buffer.value.decode("utf-8", "replace").replace("?B", counted)

    @property
    def training_context(self) -> int:
        """Return how many tokens the model was trained to see at once."""
        return int(self.lib.llama_model_n_ctx_train(self.handle))

    @property
    def sliding_window(self) -> int:
        """Return the size of the attention window in tokens; 0 for a model that sees everything."""
        return int(self.lib.llama_model_n_swa(self.handle))

    @property
    def has_encoder(self) -> bool:
        """Tell whether an encoder must run before the decoder, as in T5."""
        return bool(self.lib.llama_model_has_encoder(self.handle))

    @property
    def has_decoder(self) -> bool:
        """Tell whether the model can generate text at all; embedding models cannot."""
        return bool(self.lib.llama_model_has_decoder(self.handle))

    @property
    def keeps_state(self) -> bool:
        """Tell whether layers keep a state of the past that cannot be cut back (recurrent and hybrid models)."""
        return bool(self.lib.llama_model_is_recurrent(self.handle) or self.lib.llama_model_is_hybrid(self.handle))

    @property
    def diffuses(self) -> bool:
        """Tell whether the model refines a whole text at once instead of continuing it."""
        return bool(self.lib.llama_model_is_diffusion(self.handle))


class Adapter:
    """A LoRA adapter, loaded for one model, whose memory it shares: it is freed with it."""

    def __init__(self, model: Model, path: Path, scale: float = 1.0) -> None:
        """Load a GGUF adapter; contexts add its changes times `scale`.

        Raises:
            GgufFileError: llama.cpp cannot load it for this model; the message quotes its log.
        """
        logged = binding.log_position()
        self.scale = scale
        self.handle: Any = model.lib.llama_adapter_lora_init(model.handle, os.fsencode(path))
        if not self.handle:
            raise GgufFileError(f"llama.cpp cannot load the adapter {path}: {log_excerpt(logged)}")
