"""The errors that operators read."""

from __future__ import annotations


class OpsError(Exception):
    """A run cannot go on; the message names the thing and the fix.

    Args:
        message: shown as it is, without a traceback.
        code: the process's exit code.
    """

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


class InUseError(OpsError):
    """Somebody else is updating the stack; nothing was begun."""
