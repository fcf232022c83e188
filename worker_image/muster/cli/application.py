"""The application as commands use it: named with -A, or a bare one on the broker that was named."""

import os
from typing import TYPE_CHECKING

from muster.cli.common import Shared
from muster.errors import ConfigurationError
from muster.settings.environment import from_environment

if TYPE_CHECKING:
    from muster.app.app import Muster


def application(said: Shared) -> "Muster":
    """Return the application; what the command line and the environment say goes before its configuration.

    Raises ConfigurationError when it cannot be imported, or when neither it nor a broker was named.
    """
    environment = from_environment(os.environ)
    name = said.app or environment.app
    overrides = {
        "broker_url": said.broker or environment.broker_url,
        "result_backend": said.result_backend or environment.result_url,
    }
    if name:
        from muster.app.loading import load

        app = load(name)
    elif overrides["broker_url"]:
        from muster.app.app import Muster

        app = Muster("muster")
    else:
        raise ConfigurationError("neither an application nor a broker: say which with -A MODULE or -b URL")
    app.conf.override({setting: value for setting, value in overrides.items() if value})
    return app
