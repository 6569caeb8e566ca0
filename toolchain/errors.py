"""The one error of this package: a message for people, with the fix in it."""


class ToolchainError(Exception):
    """Something the user can act on.

    Args:
        message: What went wrong, naming the thing, and what to do about it; may span lines.
        exit_code: What the command exits with: 2 for a wrong argument, 1 for the rest.
    """

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code
