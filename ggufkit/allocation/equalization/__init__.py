"""Channels of a model scaled before its weights are rounded, in ways that leave its function as it is.

A few channels of a norm may be many times as large as the others, and the columns that read them as much smaller. Such
columns share blocks with larger ones, so that rounding loses most of them, though what they are multiplied with is
large. Both are scaled against each other here: what the model computes stays the same, and blocks become even.
"""
