"""Errors of the engine, by who must act.

MusterError
├── ConfigurationError      the user: a name, URL, option or setting is wrong; exit code 2
└── BrokerUnavailable       the world outside: try again later
    └── BrokerRefused       … but it will go on failing until somebody changes a password or permission

Celery's own exceptions, which tasks raise and results carry, stand in `muster.exceptions`.
"""


class MusterError(Exception):
    """Base of the engine's errors."""


class ConfigurationError(MusterError):
    """Raised when what the user configured cannot work. Says what, where and what to do."""


class BrokerUnavailable(MusterError):
    """Raised when a broker or result store cannot be reached; its text has no password."""


class BrokerRefused(BrokerUnavailable):
    """Raised when the broker answers and refuses us: credentials, permissions, a server too old."""
