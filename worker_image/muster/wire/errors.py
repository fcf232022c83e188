"""What can be wrong with bytes from outside.

MusterWireError
└── MalformedMessage    a message that no worker can run; carries the reason for the dead-letter place
"""


class MusterWireError(Exception):
    """Base of the errors of this package."""


class MalformedMessage(MusterWireError):
    """Raised for bytes that are no task message. `reason` is a CamelCase word, the text a sentence."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason
