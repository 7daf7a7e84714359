"""Where finished models go: the stores of other programs, and the hub. One file or folder per destination."""
