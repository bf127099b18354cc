"""How torch and its libraries use a CPU, where the user has not said it: they read it once, when they are loaded."""

from collections.abc import MutableMapping

SPINS_OF_WAITING_THREADS = 10_000
"""A thirtieth of what is usual. As fast where nothing else runs; threads that do not spin at all are slower there."""


def set_torch_defaults(environment: MutableMapping[str, str]) -> None:
    """Add what is missing to the environment; to be called before torch is loaded.

    GNU's OpenMP lets threads that wait for each other spin for milliseconds. While one waits so for another whose core
    the encoder or some other program has taken, it takes a core from them in turn, and whole runs take twice as long
    and more.

    Large pages, where Linux leaves them to the program: tensors of a picture's size are memory that is new almost every
    time, and 4 KiB at a time the system needs longer to hand it out than a layer to fill it.

    Args:
        environment: of this process; what it says already stays.
    """
    if "OMP_WAIT_POLICY" not in environment:
        environment.setdefault("GOMP_SPINCOUNT", str(SPINS_OF_WAITING_THREADS))
    environment.setdefault("THP_MEM_ALLOC_ENABLE", "1")
