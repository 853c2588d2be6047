"""The error a user reads."""


class BitgraphError(Exception):
    """Something a person can mend: bad input, a file that is not what it should be, a full disk.

    The message is one sentence that says what is wrong, where, and what to do. The command line
    prints it alone and exits with status 2; anything else that escapes is a defect.
    """
