"""Changing weights within the types that were chosen, so that the errors of a row make up for each other.

`feedback.py` is the method (GPTQ) on the `grids.py` of ggml's types; `child.py` takes the moments of the inputs from a
text and refines tensor after tensor; `refine.py` makes the file and decides by unseen text whether it is kept.
"""
