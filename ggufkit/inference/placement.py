"""Where the weights of a model go: which layers to which device."""


def experts_with_cpu(block: int) -> str:
    """Return the pattern of the expert weights of one block, as llama.cpp's --n-cpu-moe has it."""
    return rf"blk\.{block}\.ffn_(up|down|gate|gate_up)_(ch|)exps"
