"""The two ways in which a person's input can be wrong, and a place that cannot be written to."""

import errno


class InputError(ValueError):
    """What a person gave cannot be used: one clear line, exit code 2, nothing written.

    The message says what was given, what was wanted and what to do.
    """


class DamagedSampleError(InputError):
    """One sample of a shard set cannot be read or decoded; the message names shard and key."""


class ImageError(ValueError):
    """The bytes of one image are unusable; the message is the reason on the rejected list."""


def write_error(what: str, error: OSError) -> InputError:
    """The one line for something that cannot be written: a full disk, no permission...

    Args:
        what: names it.
        error: what the system says.
    """
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    advice = "free some space and" if is_full else "mend that and"
    return InputError(
        f"{what} cannot be written: {error.strerror or error}; {advice} run this again: "
        "what is finished is kept"
    )
