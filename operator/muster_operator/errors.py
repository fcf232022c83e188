"""Errors of the operator, by who must act.

OperatorError
├── ClusterUnavailable      the API server cannot be reached, is overloaded or has changed its mind: try again
├── Conflicted              somebody else changed the object: look again
├── Refused                 the API server refuses the object; its words are the text: the user must act
├── Forbidden               our own rights do not reach: whoever installed the operator must act
└── NotLeading              another operator leads: nothing of ours may be written
"""


class OperatorError(Exception):
    """Base of the operator's errors."""


class ClusterUnavailable(OperatorError):
    """Raised when the API server cannot be reached or asks to come back later."""


class Conflicted(OperatorError):
    """Raised when an object is not the one that was looked at."""


class Refused(OperatorError):
    """Raised when the API server refuses an object. The text is its own."""


class Forbidden(OperatorError):
    """Raised when the operator's rights do not reach. Names verb and resource."""


class NotLeading(OperatorError):
    """Raised instead of a write that only the leader may do."""
