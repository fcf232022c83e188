"""Errors of the engine, by who must act.

MusterError
├── ConfigurationError      the user: a name, URL, option or setting is wrong; exit code 2
├── UnroutableMessage       the broker has no queue for a message
└── BrokerUnavailable       the world outside: try again later
    ├── BrokerBlocked       … it answers, and takes no messages: its memory or disk is full
    │   └── MessageRejected     … or the queue is
    └── BrokerRefused       … but it will go on failing until somebody changes a password or permission
        ├── PermissionDenied    … the credentials are right, and do not reach so far
        └── NoVirtualHost       … there is no virtual host of that name

Celery's own exceptions, which tasks raise and results carry, stand in `muster.exceptions`.
"""


class MusterError(Exception):
    """Base of the engine's errors."""


class ConfigurationError(MusterError):
    """Raised when what the user configured cannot work. Says what, where and what to do."""


class BrokerUnavailable(MusterError):
    """Raised when a broker or result store cannot be reached; its text has no password."""


class BrokerBlocked(BrokerUnavailable):
    """Raised when the broker takes no messages now: an alarm of its memory or disk, or a full queue."""


class MessageRejected(BrokerBlocked):
    """Raised when a queue does not take a message now: it is full, or has no leader for a moment."""


class UnroutableMessage(MusterError):
    """Raised when the broker has no queue for a message: it is nowhere now."""


class BrokerRefused(BrokerUnavailable):
    """Raised when the broker answers and refuses us: credentials, permissions, a server too old."""


class PermissionDenied(BrokerRefused):
    """Raised when the broker knows us and does not let us do what the text names."""


class NoVirtualHost(BrokerRefused):
    """Raised when RabbitMQ has no virtual host of the URL's name."""
