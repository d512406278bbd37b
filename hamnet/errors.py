"""The one exception that users are meant to read."""


class HamnetError(Exception):
    """Bad input or a foreign file: one message that names what, where and the cure.

    The command line prints the message without a traceback and exits with a non-zero status.
    """

    def at(self, where: str) -> "HamnetError":
        """Return the same error with a place (file, frame, atom) put in front of the message."""
        return HamnetError(f"{where}: {self}")
