"""The only room that starts processes or loads native libraries: finding, building and calling llama.cpp."""
