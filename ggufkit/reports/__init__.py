"""Results made a page: one self-contained HTML file that people show each other."""

from ggufkit.reports.page import render
from ggufkit.reports.reading import read_all, read_results, read_run

__all__ = ["read_all", "read_results", "read_run", "render"]
