"""Bad input, as every layer raises it."""

from contextlib import contextmanager


class DataError(Exception):
    """Bad input data. The message names the file, the field and the remedy."""


class DataMissing(DataError):
    """A data set is not where it was looked for. The message names the official source and the stand-in command."""


class DataWarning(UserWarning):
    """Suspicious data that are read all the same; `common.datasets check` lists it as a problem."""


@contextmanager
def named(source):
    """Puts before the message of a DataError the file that its block reads."""
    try:
        yield
    except DataError as error:
        raise type(error)(f"{source}: {error}") from error
