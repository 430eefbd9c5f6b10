"""The one exception that means "what you gave me is wrong"."""


class InputError(ValueError):
    """Input from the user that cannot be used.

    The message is one line: what was expected, what was found, and in which file. Commands print
    it without a traceback and exit with status 2.
    """
