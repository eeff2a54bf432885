"""The four ways Whorl says no. Everything the package raises on purpose is a `WhorlError`."""


def one_line(error: object, most: int = 300) -> str:
    """Any error's text on one line that every encoding holds: for where a fault becomes an answer."""
    text = " ".join(str(error).split())[:most]
    return text.encode("utf-8", "backslashreplace").decode()


class WhorlError(Exception):
    """Base of every error Whorl raises on purpose; its text is one line a person can act on."""


class InputError(WhorlError):
    """The user's mistake: names the field or file and the remedy. The command exits with 2."""


class DataError(WhorlError):
    """A file or record is damaged or not what it claims to be: names file, place and remedy."""


class FaultError(WhorlError):
    """The machine or a peer failed (disk full, lost rank); the work so far is safe on disk."""
