"""The section about chosen types: how the file compares with presets, where its bits went, and what was foretold."""
