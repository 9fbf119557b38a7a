"""The two ways in which a person's input can be wrong."""


class InputError(ValueError):
    """What a person gave cannot be used: one clear line, exit code 2, nothing written.

    The message says what was given, what was wanted and what to do.
    """


class ImageError(ValueError):
    """The bytes of one image are unusable; the message is the reason on the rejected list."""
