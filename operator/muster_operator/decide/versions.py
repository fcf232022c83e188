"""How many workers each version of a pool has, and who leaves.

`plan` gives it the target size and the pool's Deployments, the current version and older ones, and carries
out the steps it returns. Workers only ever leave by the two phases of `drain`: replicas fall by no more than
the pods that are proven to have nothing to do. What follows from what:

* The current version grows to the target at once, or, while older workers stand, by a quarter above it.
* Older workers are chosen to leave as workers of the current version become ready, so that the ready ones
  never fall below the target through us.
* Workers that leave count towards no target: while busy ones finish, others take their place, within the
  maximum.
* A drained worker that the target needs is deleted instead, and the ReplicaSet starts a new one in its place.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from muster_operator.model.world import DeploymentView, PodView

from .drain import (
    choose,
    is_active,
    is_deaf,
    is_done,
    is_leaving,
    is_marked,
    is_unstarted,
    must_hear_again,
    replica_set_order,
)


@dataclass(frozen=True, kw_only=True)
class Steps:
    """What to do to Deployments and pods now."""

    replicas: dict[str, int] = field(default_factory=dict)
    """Deployment → replicas that it shall have; the current one is in it even before it exists."""
    choose: tuple[PodView, ...] = ()
    """To be marked as leaving."""
    tell: tuple[PodView, ...] = ()
    """To be sent `drain`."""
    dismiss: tuple[PodView, ...] = ()
    """To be sent `leave`."""
    mark: tuple[PodView, ...] = ()
    """To be given the deletion cost."""
    replace: tuple[PodView, ...] = ()
    """To be deleted, because the Deployment keeps its size and needs a worker there."""
    finished: tuple[DeploymentView, ...] = ()
    """Older versions with nothing left."""


@dataclass(frozen=True, kw_only=True)
class _Version:
    """One Deployment and its pods, without those that its ReplicaSet is about to delete already."""

    deployment: DeploymentView
    missing: int
    """Replicas for which there is no pod yet."""
    staying: tuple[PodView, ...]
    busy: tuple[PodView, ...]
    """Leaving, and not proven to be done."""
    done: tuple[PodView, ...]
    """Leaving and done, those that are marked first."""

    @property
    def kept(self) -> int:
        """Replicas that are not leaving, with or without a pod."""
        return self.missing + len(self.staying)


def size_versions(
    *,
    current: str,
    deployments: Sequence[DeploymentView],
    pods: Sequence[PodView],
    replicas: int,
    most: int | None,
    may_shrink: bool,
    now: datetime,
) -> Steps:
    """Return the steps towards `replicas` workers of the Deployment named `current` and none of any other.

    `most` bounds all pods together, but for the quarter that a change of version may add; None: no bound.
    """
    versions = {each.name: _version(each, pods, now) for each in deployments}
    older = [version for name, version in versions.items() if name != current]
    older.sort(key=lambda version: (version.deployment.created_at, version.deployment.name))
    newest = versions.get(current)

    old = _shrink_older(older, newest, replicas=replicas, may_shrink=may_shrink, now=now)
    surge = max(1, -(-replicas // 4)) if any(_remains(version) for version in older) else 0
    old_kept = sum(version.kept for version in older)
    wanted = replicas
    if old_kept:
        wanted = min(replicas, max(newest.kept if newest else 0, replicas + surge - old_kept))
    room = None if most is None else max(0, most + surge - sum(old.replicas.values()))
    if newest is None:
        size = wanted if room is None else min(wanted, room)
        new = Steps(replicas={current: size})
    else:
        new = _size_newest(newest, wanted, room=room, may_shrink=may_shrink, now=now)
    return Steps(
        replicas=old.replicas | new.replicas,
        choose=old.choose + new.choose,
        tell=old.tell + new.tell,
        dismiss=tuple(pod for pod in pods if is_deaf(pod, now)),
        mark=old.mark + new.mark,
        replace=new.replace,
        finished=tuple(
            version.deployment
            for version in older
            if version.deployment.replicas == 0
            and version.deployment.settled
            and version.deployment.pods == 0
            and not any(pod.deployment == version.deployment.name for pod in pods)
        ),
    )


def _version(deployment: DeploymentView, pods: Sequence[PodView], now: datetime) -> _Version:
    active = [pod for pod in pods if pod.deployment == deployment.name and is_active(pod)]
    surplus = max(0, len(active) - deployment.replicas)
    active = replica_set_order(active)[surplus:]
    leaving = [pod for pod in active if is_leaving(pod)]
    done = sorted(
        (pod for pod in leaving if is_done(pod, now)),
        key=lambda pod: (not is_marked(pod), pod.draining_since or pod.created_at, pod.name),
    )
    # A pod that our index has not seen yet must not look missing: the Deployment's own count has it.
    counted = max(len(active), deployment.pods if deployment.settled else deployment.replicas)
    return _Version(
        deployment=deployment,
        missing=max(0, deployment.replicas - counted),
        staying=tuple(pod for pod in active if not is_leaving(pod)),
        busy=tuple(pod for pod in leaving if not is_done(pod, now)),
        done=tuple(done),
    )


def _remains(version: _Version) -> bool:
    return bool(version.deployment.replicas or version.deployment.pods or version.kept)


def _shrink_older(
    older: Sequence[_Version], newest: _Version | None, *, replicas: int, may_shrink: bool, now: datetime
) -> Steps:
    """Let older workers go, as many as ready workers of the current version and the target can spare."""
    sizes = {version.deployment.name: version.deployment.replicas for version in older}
    if not may_shrink:
        return Steps(replicas=sizes, tell=_to_tell(older, now))
    ready = sum(pod.ready for pod in newest.staying) if newest else 0
    needed = max(0, replicas - min(ready, replicas))
    spare = max(0, sum(version.kept for version in older) - needed)
    for version in older:
        dropped = min(version.missing, spare)
        sizes[version.deployment.name] -= dropped
        spare -= dropped
    chosen = choose((pod for version in older for pod in version.staying), spare, now)
    unstarted = [pod for pod in chosen if is_unstarted(pod)]
    done = [pod for version in older for pod in version.done]
    for pod in (*unstarted, *(pod for pod in done if is_marked(pod) or is_unstarted(pod))):
        sizes[pod.deployment] -= 1
    return _steps(sizes, chosen, done, tell=_to_tell(older, now))


def _size_newest(
    version: _Version, wanted: int, *, room: int | None, may_shrink: bool, now: datetime
) -> Steps:
    """Bring the current version to `wanted` workers that stay, beside those that are still leaving."""
    name, have = version.deployment.name, version.deployment.replicas
    excess = max(0, version.kept - wanted) if may_shrink else 0
    dropped = min(version.missing, excess)
    chosen = choose(version.staying, excess - dropped, now)
    unstarted = [pod for pod in chosen if is_unstarted(pod)]
    target = wanted + len(version.busy) + len(chosen) - len(unstarted)
    if room is not None:
        target = min(target, room)
    told = _to_tell([version], now)
    if target < have and not may_shrink:
        return Steps(replicas={name: have}, tell=told)
    surplus = max(0, have - target)
    going = version.done[: max(0, surplus - dropped - len(unstarted))]
    proven = [pod for pod in going if is_marked(pod) or is_unstarted(pod)]
    size = max(target, have - (dropped + len(unstarted) + len(proven)))
    steps = _steps({name: size}, chosen, going, tell=told)
    return replace(steps, replace=version.done[len(going) :])


def _steps(
    sizes: dict[str, int],
    chosen: Sequence[PodView],
    going: Sequence[PodView],
    *,
    tell: tuple[PodView, ...],
) -> Steps:
    """Return the steps for pods chosen now, which go once their worker says so, and those that are done."""
    leaving = tuple(pod for pod in chosen if not is_unstarted(pod))
    return Steps(
        replicas=sizes,
        choose=tuple(pod for pod in leaving if pod.process),
        tell=tell + tuple(pod for pod in leaving if pod.process),
        mark=tuple(
            pod
            for pod in (*going, *(pod for pod in leaving if not pod.process))
            if not is_marked(pod) and not is_unstarted(pod)
        ),
    )


def _to_tell(versions: Sequence[_Version], now: datetime) -> tuple[PodView, ...]:
    return tuple(pod for version in versions for pod in version.busy if must_hear_again(pod, now))
