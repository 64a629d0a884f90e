"""The one exception that is meant for the person at the keyboard."""


class UserError(Exception):
    """Something the user can mend. Each argument is one line: what is wrong, where, what to do instead.

    The command line prints the lines and exits with code 2; no traceback is shown.
    """

    def __str__(self) -> str:
        return "\n".join(str(line) for line in self.args)
