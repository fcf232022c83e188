"""`app.control`: what can be asked of workers from an application."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NoReturn

from muster import instead
from muster.errors import ConfigurationError

if TYPE_CHECKING:
    from muster.app.app import Muster


class Control:
    """Speaks to workers through the broker."""

    def __init__(self, app: "Muster") -> None:
        self._app = app

    def revoke(self, task_id: str | Iterable[str], terminate: bool = False, **_: Any) -> None:
        """Have workers discard these tasks when they come to them: state REVOKED. Running ones run on.

        Raises BrokerUnavailable, ConfigurationError for what cannot be asked.
        """
        if terminate:
            raise ConfigurationError(f"terminate=True is not available: {instead.CONTROL['terminate']}")
        settings = self._app.conf.settings
        if not settings.broker_url:
            raise ConfigurationError("no broker is configured, so there is nobody to tell of a revoked task")
        from muster.transports.connect import connect_observer

        observer = connect_observer(settings.broker_url, settings.broker_transport_options, {})
        try:
            observer.revoke([task_id] if isinstance(task_id, str) else list(task_id))
        finally:
            observer.close()

    def __getattr__(self, name: str) -> Callable[..., NoReturn]:
        """Return, for a method that Celery has, what raises ConfigurationError and says what to use."""
        if name not in instead.CONTROL:
            raise AttributeError(f"app.control has no {name!r}")

        def refuse(*_: Any, **__: Any) -> NoReturn:
            raise ConfigurationError(f"app.control.{name}() is not available: {instead.CONTROL[name]}")

        return refuse
