"""Errors that are written for the reader of one line, and how a program shows them.

Any other error is a fault of the program and keeps its traceback.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_FILE_ERRORS = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError)
_ERRNOS = frozenset(
    {
        errno.EADDRINUSE,
        errno.EADDRNOTAVAIL,
        errno.EDQUOT,
        errno.EFBIG,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.ENOSPC,
        errno.ENOTEMPTY,
        errno.EROFS,
    }
)


DIVERGED = 3
"""Exit status of a training whose loss is no longer finite."""


class UserError(Exception):
    """Mixed into every error that its reader can put right: the message names the value, its source and the remedy.

    A class keeps its other base (ValueError, RuntimeError, OSError) for callers that handle it.
    """

    exit_status = 1
    """Of a program that ends with it."""


class InputError(UserError, ValueError):
    """What was given (a name, an array, a message) is not what the called part takes."""


class FailedError(UserError, RuntimeError):
    """Work could not be done as asked for, because of something outside the program."""


def is_users(error: BaseException) -> bool:
    """Whether ``error`` is shown as one line: a UserError, or the system's word on a file, a disk or a port.

    The message of such an OSError names the file; the reader can create it, free space or change permissions.
    """
    if isinstance(error, (UserError, *_FILE_ERRORS)):
        return True
    return isinstance(error, OSError) and error.errno in _ERRNOS


@contextmanager
def one_line_errors(program: str) -> Iterator[None]:
    """Within the body, an error that the user can mend ends the program: ``program: message``, with its exit status."""
    try:
        yield
    except Exception as error:
        if not is_users(error):
            raise
        print(f"{program}: {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_status if isinstance(error, UserError) else 1)
