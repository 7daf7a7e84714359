"""What rounding the inputs of matrices costs, which copies with changed weights do not show.

Where weights are stored in blocks, llama.cpp's CPU rounds what they are multiplied with to 8 bits too: in blocks of 256
or of 32 values, as the type of the weights has them. `rounding.py` says how, `child.py` measures it beside the rounding
of the weights, `known.py` keeps that and makes costs of it.
"""
