"""The one exception for bad input: a single clear line for the user, exit code 2, no traceback."""


class InputError(Exception):
    """Something the user gave cannot be used. The message names the file, the task and the reason."""
