"""How much memory there is."""

import os

_SHARE_OF_FREE_MEMORY = 0.6


def available_memory() -> int:
    """60 % of the memory that is free now, in bytes."""
    return int(_SHARE_OF_FREE_MEMORY * free_memory())


def free_memory() -> int:
    """The memory that is free now, in bytes."""
    try:
        with open("/proc/meminfo") as file:
            fields = dict(line.split(":") for line in file)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def resident_memory() -> int:
    """What this process holds of the memory now, in bytes; 0 where the system does not say."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def ran_out(error: Exception) -> bool:
    """Whether it says that NumPy, ITK or TensorFlow got no memory."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "ResourceExhaustedError"
        or "Failed to allocate memory" in str(error)
    )
