"""How ggml's types lay out their blocks: taken apart into scales, minima and codes, and put together again."""

from ggufkit.quantization.layouts.levels import LevelLayout, Scales, level_layout_of
from ggufkit.quantization.layouts.patterns import PatternLayout, pattern_layout_of, pattern_scales_of, patterns_of

__all__ = [
    "LevelLayout",
    "PatternLayout",
    "Scales",
    "level_layout_of",
    "pattern_layout_of",
    "pattern_scales_of",
    "patterns_of",
]
