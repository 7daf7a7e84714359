"""Serving a model over HTTP: llama.cpp's server, kept alive, behind a gate that decides what reaches it."""

from ggufkit.inference.serving.options import ServeOptions
from ggufkit.inference.serving.server import Server

__all__ = ["ServeOptions", "Server"]
