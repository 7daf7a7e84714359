"""Python's search for cyclic garbage, kept out of the way of processes that take a second."""

import atexit
import gc

# Importing and reading headers make hundreds of thousands of objects, and hardly any garbage: with Python's own
# threshold a tenth of `ggufkit plan` went into looking for it.
_OBJECTS_BETWEEN_SEARCHES = 50_000


def search_less() -> None:
    """Search for cyclic garbage seldom, and not at the end, when all memory is given back anyway."""
    gc.set_threshold(_OBJECTS_BETWEEN_SEARCHES, *gc.get_threshold()[1:])
    atexit.register(gc.freeze)
