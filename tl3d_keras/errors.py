"""The exceptions that commands tell in one line."""


class InputError(ValueError):
    """Input from the user that cannot be used.

    The message is one line: what was expected, what was found, and in which file. Commands print
    it without a traceback and exit with status 2.
    """


class WorkerLost(RuntimeError):
    """Another worker of the cluster ended; the run goes on when all are started again."""


class ServerError(RuntimeError):
    """A server that gave no answer, or none that can be used; other input would change nothing."""
