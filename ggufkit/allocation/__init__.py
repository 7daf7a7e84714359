"""Which type each tensor of a model should have, so that a file of a given size loses the least: measured, not assumed.

`optimize.py` is the way in. What a type does to a tensor is computed exactly (`row_errors.py`), how much a tensor
matters is measured (`study.py`), `knapsack.py` spends the bytes, and `verification.py` has the last word.
"""
