"""The values of the Helm chart: the one place where they are written down.

`generate` makes values.yaml, values.schema.json and the chart's README of these types, in the vocabulary of
the resources (`api.meta`). The templates under helm/muster read them by their JSON names. Nothing at run time
uses this module.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from muster_operator.api.meta import JsonObject, Prop, Word

NAME = r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$"
NAME_SENTENCE = "must be empty or the name of an object: lower-case letters, digits, - and ."


class PullPolicy(Word):
    """Kubernetes' words for when an image is pulled."""

    ALWAYS = "Always"
    IF_NOT_PRESENT = "IfNotPresent"
    NEVER = "Never"


class LogLevel(Word):
    """What is logged, and all above it."""

    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


class LogFormat(Word):
    """How a line is written."""

    JSON = "json"
    TEXT = "text"


Tag = Annotated[str, Prop("Its tag; empty: the chart's appVersion.", max_length=128)]
Digest = Annotated[
    str,
    Prop(
        "Its digest, which wins over the tag.",
        pattern=r"^(sha256:[0-9a-f]{64})?$",
        sentence="must be empty or sha256: and 64 hexadecimal digits",
    ),
]
Pull = Annotated[PullPolicy, Prop("When it is pulled.")]


@dataclass(frozen=True, kw_only=True)
class OperatorImage:
    """The operator's image."""

    repository: Annotated[str, Prop("The operator's image, with a registry's host where there is one.")] = (
        "muster-operator"
    )
    tag: Tag = ""
    digest: Digest = ""
    pull_policy: Pull = PullPolicy.IF_NOT_PRESENT


@dataclass(frozen=True, kw_only=True)
class WorkerImage:
    """The engine's own image."""

    repository: Annotated[
        str, Prop("The engine's image without an application: what beat and `helm test` run.")
    ] = "muster-worker"
    tag: Tag = ""
    digest: Digest = ""
    pull_policy: Pull = PullPolicy.IF_NOT_PRESENT


@dataclass(frozen=True, kw_only=True)
class RedisImage:
    """The image of the first try's Redis."""

    repository: Annotated[str, Prop("An image with `redis-server`, 6.2 or newer.")] = "redis"
    tag: Annotated[str, Prop("Its tag.", max_length=128)] = "8"
    digest: Digest = ""
    pull_policy: Pull = PullPolicy.IF_NOT_PRESENT


@dataclass(frozen=True, kw_only=True)
class RabbitMQImage:
    """The image of the first try's RabbitMQ."""

    repository: Annotated[str, Prop("An image with `rabbitmq-server` 4 and its management plugin.")] = (
        "rabbitmq"
    )
    tag: Annotated[str, Prop("Its tag.", max_length=128)] = "4-management"
    digest: Digest = ""
    pull_policy: Pull = PullPolicy.IF_NOT_PRESENT


@dataclass(frozen=True, kw_only=True)
class PullSecret:
    """One reference, as a pod has it."""

    name: Annotated[str, Prop("The Secret's name.", min_length=1)]


@dataclass(frozen=True, kw_only=True)
class Watch:
    """Where the operator looks."""

    namespaces: Annotated[
        tuple[str, ...],
        Prop(
            "The namespaces that the operator serves: it gets a Role in each, and no ClusterRole. "
            "Empty: all of them, by a ClusterRole.",
            pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
            sentence="must be a namespace's name",
        ),
    ] = ()


@dataclass(frozen=True, kw_only=True)
class CRDs:
    """The kinds TaskQueue, WorkerPool and Schedule."""

    install: Annotated[bool, Prop("Install the kinds, and bring them up to date with each upgrade.")] = True
    keep: Annotated[
        bool, Prop("Keep them, and so every object of theirs, when the chart is uninstalled.")
    ] = True


@dataclass(frozen=True, kw_only=True)
class RBAC:
    """What the operator and people may do."""

    create: Annotated[bool, Prop("Create the operator's roles and bindings.")] = True
    aggregate: Annotated[
        bool,
        Prop(
            "Let the cluster's roles view, edit and admin include Muster's kinds; not with watch.namespaces."
        ),
    ] = True


@dataclass(frozen=True, kw_only=True)
class ServiceAccount:
    """Whom the operator is to the API server."""

    create: Annotated[bool, Prop("Create it.")] = True
    name: Annotated[
        str,
        Prop("Its name; empty: the release's full name.", pattern=NAME, sentence=NAME_SENTENCE),
    ] = ""
    annotations: Annotated[Mapping[str, str], Prop("Its annotations.")] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Log:
    """The operator's log."""

    level: Annotated[LogLevel, Prop("What is logged.")] = LogLevel.INFO
    format: Annotated[LogFormat, Prop("How a line is written.")] = LogFormat.JSON


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """The operator's /metrics."""

    service: Annotated[bool, Prop("Create a Service for the operator's /metrics.")] = True
    annotations: Annotated[Mapping[str, str], Prop("The Service's annotations.")] = field(
        default_factory=dict
    )


@dataclass(frozen=True, kw_only=True)
class Disruption:
    """The operator's PodDisruptionBudget."""

    enabled: Annotated[
        bool, Prop("Create one: at most one replica is evicted at a time. Of use with two replicas.")
    ] = False


@dataclass(frozen=True, kw_only=True)
class Redis:
    """A Redis for a first try."""

    enabled: Annotated[
        bool,
        Prop(
            "Install a single Redis for a first try, with the Secret `<full name>-redis` that names it. "
            "It is no broker for production: one process, no replica, no TLS."
        ),
    ] = False
    image: RedisImage = field(default_factory=RedisImage)
    password: Annotated[
        str,
        Prop(
            "Its password; empty: none, so whoever reaches it may use it.",
            pattern=r"^[A-Za-z0-9._~-]*$",
            sentence="may hold letters, digits and ._~- only, since it becomes part of a URL",
        ),
    ] = ""
    storage: Annotated[
        str,
        Prop("The size of its volume, such as 1Gi; empty: what it holds is lost with its pod."),
    ] = ""


@dataclass(frozen=True, kw_only=True)
class RabbitMQ:
    """A RabbitMQ for a first try."""

    enabled: Annotated[
        bool,
        Prop(
            "Install a single RabbitMQ for a first try, with the Secret `<full name>-rabbitmq` that names "
            "it. It is no broker for production: one node, so quorum queues have one member, and no TLS. "
            "`examples/rabbitmq-cluster` has three nodes."
        ),
    ] = False
    image: RabbitMQImage = field(default_factory=RabbitMQImage)
    password: Annotated[
        str,
        Prop(
            "The password of its user `muster`; the default is known to everybody.",
            pattern=r"^[A-Za-z0-9._~-]+$",
            sentence="may hold letters, digits and ._~- only, since it becomes part of a URL",
        ),
    ] = "muster"  # noqa: S105 - for a first try, and said to be known
    storage: Annotated[
        str,
        Prop("The size of its volume, such as 1Gi; empty: what it holds is lost with its pod."),
    ] = ""


@dataclass(frozen=True, kw_only=True)
class Check:
    """What `helm test` does."""

    namespace: Annotated[
        str,
        Prop(
            "Where the task runs; empty: the release's namespace, or the first of watch.namespaces.",
            pattern=NAME,
            sentence=NAME_SENTENCE,
        ),
    ] = ""
    broker_secret: Annotated[
        str,
        Prop(
            "A Secret there whose key `url` names the broker; empty: a Redis of the test's own.",
            pattern=NAME,
            sentence=NAME_SENTENCE,
        ),
    ] = ""
    timeout_seconds: Annotated[int, Prop("How long the task may take.", minimum=1)] = 180


def _resources() -> dict[str, Any]:
    return {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}}


@dataclass(frozen=True, kw_only=True)
class Values:
    """Everything that may be set."""

    name_override: Annotated[str, Prop("Stands for the chart's name in names and labels.", max_length=63)] = (
        ""
    )
    fullname_override: Annotated[
        str, Prop("Stands for the whole name of what is created.", max_length=63)
    ] = ""
    replicas: Annotated[
        int,
        Prop("Operators: one works, elected by a Lease, the others stand by.", minimum=0, maximum=5),
    ] = 1
    image: OperatorImage = field(default_factory=OperatorImage)
    worker_image: WorkerImage = field(default_factory=WorkerImage)
    image_pull_secrets: Annotated[tuple[PullSecret, ...], Prop("Secrets for pulling the images.")] = ()
    watch: Watch = field(default_factory=Watch)
    crds: CRDs = field(default_factory=CRDs)
    rbac: RBAC = field(default_factory=RBAC)
    service_account: ServiceAccount = field(default_factory=ServiceAccount)
    log: Log = field(default_factory=Log)
    metrics: Metrics = field(default_factory=Metrics)
    pod_disruption_budget: Disruption = field(default_factory=Disruption)
    resources: Annotated[JsonObject, Prop("The operator's requests and limits.")] = field(
        default_factory=_resources
    )
    pod_annotations: Annotated[Mapping[str, str], Prop("Annotations of the operator's pods.")] = field(
        default_factory=dict
    )
    pod_labels: Annotated[Mapping[str, str], Prop("Labels of the operator's pods beyond the chart's.")] = (
        field(default_factory=dict)
    )
    node_selector: Annotated[Mapping[str, str], Prop("Nodes for the operator.")] = field(default_factory=dict)
    tolerations: Annotated[tuple[JsonObject, ...], Prop("Taints that the operator tolerates.")] = ()
    affinity: Annotated[
        JsonObject, Prop("The operator's affinity; empty: replicas keep apart if they can.")
    ] = field(default_factory=dict)
    priority_class_name: Annotated[str, Prop("The operator's PriorityClass.")] = ""
    extra_env: Annotated[tuple[JsonObject, ...], Prop("Variables of the operator beyond the chart's.")] = ()
    redis: Redis = field(default_factory=Redis)
    rabbitmq: RabbitMQ = field(default_factory=RabbitMQ)
    test: Check = field(default_factory=Check)
