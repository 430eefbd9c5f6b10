"""How every command starts: quiet TensorFlow, flag errors in one line, exit codes 0, 1 and 2."""

import atexit
import errno
import math
import os
import re
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence

from absl import app, flags, logging

from tl3d_keras import memory
from tl3d_keras.errors import InputError, ServerError, WorkerLost

USER_ERROR, OTHER_ERROR = 2, 1
# What a write meets on a full disk names no file.
_FULL = (errno.ENOSPC, errno.EDQUOT)


def run(main: Callable[[], None], command_flags: flags.FlagValues) -> None:
    """Parses the flags, calls `main()` and exits: 0 done, 2 bad input or flags, 1 anything else.

    Each command keeps its flags in a `FlagValues` of its own, so that several can be imported.
    """
    flags.FLAGS.append_flag_values(command_flags)
    for name in command_flags:
        # --helpshort lists the flags that are registered for the program.
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], command_flags[name])
    command_flags.mark_as_parsed()
    app.run(lambda _: guarded(main), flags_parser=_parse)


def load_tensorflow() -> None:
    """Imports TensorFlow without its start-up chatter.

    TF_CPP_MIN_LOG_LEVEL below 3 brings it back. Its first lines are written by C++ before any level
    applies, so standard error is held back during the import, and given out if the import fails.
    """
    if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") != "3" or "tensorflow" in sys.modules:
        return
    sys.stderr.flush()
    standard_error = os.dup(2)
    with tempfile.TemporaryFile() as held_back:
        os.dup2(held_back.fileno(), 2)
        try:
            import tensorflow

            tensorflow.get_logger().setLevel("WARNING")
        except Exception:
            held_back.seek(0)
            os.write(standard_error, held_back.read())
            raise
        finally:
            os.dup2(standard_error, 2)
            os.close(standard_error)


def _parse(argv: Sequence[str]) -> list[str]:
    try:
        rest = flags.FLAGS(argv)
    except SystemExit:
        # absl ends with 1 after --help, which is none of the failures that 1 stands for.
        sys.exit(0)
    except flags.Error as error:
        _fail(_in_our_words(" ".join(str(error).split())))
    if len(rest) > 1:
        _fail(f"expected flags alone, found the argument {rest[1]!r}; see --help")
    for flag in flags.FLAGS.get_key_flags_for_module(argv[0]):
        # A shell variable that is not set would be the current folder, or the default unasked.
        if flag.present and flag.default is None and flag.value in ("", []):
            _fail(f"--{flag.name}: expected a value, found none")
    try:
        check_numbers(flags.FLAGS)
    except InputError as error:
        _fail(str(error))
    return rest


def _in_our_words(message: str) -> str:
    missing = re.findall(r"(--\w+) must have a value other than None", message)
    if missing:
        return f"expected {', '.join(missing)} too; --help says what every flag is"
    for theirs, kind in (
        (r"invalid literal for int\(\) with base 10:", "a whole number"),
        ("could not convert string to float:", "a number"),
    ):
        message = re.sub(f"{theirs} '(.*)'", rf"expected {kind}, found '\1'", message)
    return message.removeprefix("ERROR:: ")


def check_numbers(values: flags.FlagValues) -> None:
    """Raises an `InputError` for NaN and infinite flags, which absl's bounds let through."""
    for name in values:
        value = values[name].value
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"--{name}: expected a finite number, found {value}")


def say(line: str) -> None:
    """Prints a line at once, also where standard output is a file or a pipe."""
    print(line, flush=True)


def guarded(main: Callable[[], None]) -> None:
    """Calls `main()` and exits with a line for what the user can mend; see `run` for the codes."""
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)
    try:
        main()
    except InputError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        _stop()
    except BrokenPipeError:
        # `| head` has seen enough. What is still buffered must find an open end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(OTHER_ERROR)
    except OSError as error:
        if not error.filename and error.errno not in _FULL:
            raise
        # Permissions, a full disk, a file that is gone: the system's own words say it.
        _fail(f"{error.filename or 'cannot write'}: {error.strerror}")
    except (ServerError, WorkerLost) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(OTHER_ERROR)
    except Exception as error:
        if not memory.ran_out(error):
            raise
        _fail(f"expected more memory than there is: {' '.join(str(error).split())[:200]}")


def _stop() -> None:
    print("error: stopped by Ctrl-C", file=sys.stderr)
    # A signal ends a process without them: temporary files and semaphores would stay.
    atexit._run_exitfuncs()
    sys.stdout.flush()
    # A shell ends its own loop only where the command died of the signal.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.raise_signal(signal.SIGINT)


def _fail(message: str) -> None:
    for line in message.splitlines():
        print(f"error: {line}", file=sys.stderr)
    sys.exit(USER_ERROR)
