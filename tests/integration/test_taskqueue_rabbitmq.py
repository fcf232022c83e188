"""TaskQueues on a real RabbitMQ: declared, kept as declared, and every trouble by its name."""

import asyncio
import time

import pika
import pytest

from muster.transports.amqp.address import addresses
from muster.transports.amqp.delayed import ENTRY, layout, return_of, routing_key
from muster.transports.amqp.line import Line, Parcel
from muster.transports.amqp.outbox import declare_part
from resources import task_queue
from virtual_hosts import story


def management_url(virtual_host):
    return virtual_host.server.management_url


def secret(keeper, virtual_host, **more):
    keeper.secrets.put(url=virtual_host.url, managementUrl=management_url(virtual_host), **more)


def effective(virtual_host, queue):
    return virtual_host.queue(queue)["effective_policy_definition"]


def policies(virtual_host):
    found = virtual_host.server.api("GET", f"policies/{virtual_host.name}")
    return {each["name"]: each for each in found}


def test_a_queue_and_its_dead_letters_are_declared_and_their_policies_are_in_force(rabbitmq):
    """Arguments name the type only; all else is policy, and the status says that it is in force."""

    async def told(keeper):
        secret(keeper, rabbitmq)
        keeper.put(task_queue("mail", messageTTL="1h", maxLength=1000))
        await keeper.until_condition("mail", "Ready", "True", "AsDeclared")
        await keeper.until_condition("mail", "PolicyInSync", "True", "AsDeclared")
        assert rabbitmq.queue("mail")["arguments"] == {"x-queue-type": "quorum"}
        assert effective(rabbitmq, "mail") == {
            "dead-letter-exchange": "muster.dead",
            "message-ttl": 3_600_000,
            "max-length": 1000,
            "overflow": "drop-head",
        }
        assert effective(rabbitmq, "mail.dead") == {"message-ttl": 7 * 86_400_000, "max-length": 100_000}
        assert rabbitmq.queue("mail.dead")["type"] == "quorum"
        assert keeper.condition("mail", "QueueMismatch")[0] == "False"
        assert keeper.condition("mail", "UnderReplicated")[0] == "False"
        assert keeper.condition("mail", "BrokerAlarm")[0] == "False"

    story(told)


def test_a_policy_that_was_changed_or_removed_by_hand_is_put_right(rabbitmq):
    """Within a minute, without a word of anybody."""

    async def told(keeper):
        secret(keeper, rabbitmq)
        keeper.put(task_queue("mail", maxLength=1000))
        await keeper.until_condition("mail", "PolicyInSync", "True", "AsDeclared")
        [name] = [
            n
            for n, each in policies(rabbitmq).items()
            if "max-length" in each["definition"] and each["definition"]["max-length"] == 1000
        ]
        path = f"policies/{rabbitmq.name}/{name}"
        body = {"pattern": "^mail$", "definition": {"max-length": 7}, "priority": 10, "apply-to": "queues"}
        rabbitmq.server.api("PUT", path, **body)
        await keeper.until(lambda: effective(rabbitmq, "mail").get("max-length") == 1000, "repair", 60)
        rabbitmq.server.api("DELETE", path)
        await keeper.until(lambda: effective(rabbitmq, "mail").get("max-length") == 1000, "repair", 60)

    story(told)


def test_a_policy_of_somebody_else_is_named_and_left_alone(rabbitmq):
    """Its name and priority stand in the condition, which heals when it goes; likewise an operator policy."""

    async def told(keeper):
        secret(keeper, rabbitmq)
        keeper.put(task_queue("mail", maxLength=1000))
        await keeper.until_condition("mail", "PolicyInSync", "True", "AsDeclared")
        foreign = f"policies/{rabbitmq.name}/theirs"
        body = {"pattern": "^mail", "definition": {"max-length": 3}, "apply-to": "queues"}
        rabbitmq.server.api("PUT", foreign, priority=20, **body)
        message = await keeper.until_condition("mail", "PolicyInSync", "False", "PolicyOverridden")
        assert "policy theirs (priority 20) is in force" in message
        assert "give it a priority below 10" in message
        assert "theirs" in policies(rabbitmq)
        rabbitmq.server.api("DELETE", foreign)
        await keeper.until_condition("mail", "PolicyInSync", "True", "AsDeclared")
        operators = f"operator-policies/{rabbitmq.name}/limits"
        rabbitmq.server.api("PUT", operators, priority=0, **body)
        message = await keeper.until_condition("mail", "PolicyInSync", "False", "OperatorPolicy")
        assert "operator policy limits changes queue mail to max-length: 3" in message
        rabbitmq.server.api("DELETE", operators)
        await keeper.until_condition("mail", "PolicyInSync", "True", "AsDeclared")

    story(told)


@pytest.mark.parametrize("with_management", [True, False], ids=["management", "AMQP alone"])
def test_a_deleted_queue_is_declared_again(rabbitmq, with_management):
    """With its dead letters led as before."""

    async def told(keeper):
        more = {"managementUrl": rabbitmq.server.management_url} if with_management else {}
        keeper.secrets.put(url=rabbitmq.url, **more)
        keeper.put(task_queue("mail"))
        await keeper.until_condition("mail", "Ready", "True", "AsDeclared")
        for name in ("mail", "mail.dead"):
            rabbitmq.server.api("DELETE", f"queues/{rabbitmq.name}/{name}")
        await keeper.until(lambda: rabbitmq.queue("mail"), "the queue")

        def led():
            found = rabbitmq.server.api("GET", f"queues/{rabbitmq.name}/mail.dead/bindings")
            return {each["source"] for each in found} == {"", "muster.dead", "muster.dead.queue"}

        await keeper.until(lambda: rabbitmq.queue("mail.dead") and led(), "the dead letters' queue")

    story(told)


@pytest.mark.parametrize("with_management", [True, False], ids=["management", "AMQP alone"])
def test_a_queue_with_other_arguments_is_a_mismatch_and_is_left_alone(rabbitmq, with_management):
    """Both sets are shown; its messages stay; when somebody has removed it, it is declared as wanted."""

    async def told(keeper):
        rabbitmq.declare("mail", **{"x-max-priority": 9})
        more = {"managementUrl": rabbitmq.server.management_url} if with_management else {}
        keeper.secrets.put(url=rabbitmq.url, **more)
        keeper.put(task_queue("mail"))
        message = await keeper.until_condition("mail", "QueueMismatch", "True", "OtherArguments")
        assert "{x-queue-type: quorum} is wanted" in message
        assert ("{x-max-priority: 9}" if with_management else "but current is the value '9'") in message
        await keeper.until_condition("mail", "Ready", "False", "OtherArguments")
        assert rabbitmq.queue("mail")["arguments"] == {"x-max-priority": 9}
        rabbitmq.server.api("DELETE", f"queues/{rabbitmq.name}/mail")
        await keeper.until_condition("mail", "Ready", "True", "AsDeclared")
        assert rabbitmq.queue("mail")["type"] == "quorum"

    story(told)


def test_without_the_management_api_all_but_policies_works(rabbitmq):
    """Queues are declared and read; the condition says what to add. One that comes later is used."""

    async def told(keeper):
        keeper.secrets.put(url=rabbitmq.url)
        keeper.put(task_queue("mail"))
        await keeper.until_condition("mail", "Ready", "True", "AsDeclared")
        message = await keeper.until_condition("mail", "PolicyInSync", "Unknown", "NoManagementApi")
        assert "add the key" in message
        assert rabbitmq.queue("mail.dead")["type"] == "quorum"
        assert policies(rabbitmq) == {}
        keeper.secrets.put(url=rabbitmq.url, managementUrl="http://127.0.0.1:1")
        keeper.reread()
        await keeper.until_condition("mail", "PolicyInSync", "Unknown", "ManagementUnreachable")
        keeper.secrets.put(url=rabbitmq.url, managementUrl="ftp://broker")
        keeper.reread()
        await keeper.until_condition("mail", "PolicyInSync", "Unknown", "SecretInvalid")
        secret(keeper, rabbitmq)
        keeper.reread()
        await keeper.until_condition("mail", "PolicyInSync", "True", "AsDeclared")

    story(told)


def test_a_secret_that_cannot_be_used_is_told_and_stops_nobody(rabbitmq):
    """Of the broker's URL it is the Secret that is invalid, of the management API's only policies wait."""
    url = rabbitmq.url
    tls = url.replace("amqp://", "amqps://")
    brokers = [
        {"url": tls, "ca.crt": "no PEM"},
        {"url": f"{url}?heartbeat=abc"},
        {"url": f"{tls}?certfile=/none"},
        {"url": "rediss://127.0.0.1:1/0", "ca.crt": "no PEM"},
    ]
    management = [
        {"url": url, "managementUrl": "https://localhost:1", "ca.crt": "no PEM"},
        {"url": url, "managementUrl": "http://[rabbit]:15672"},
    ]

    async def told(keeper):
        for number, data in enumerate([*brokers, *management]):
            name = f"a-wrong-one-{number}"  # before the right one in the order of names
            keeper.secrets.put(name=name, **data)
            keeper.put(task_queue(name, broker={"secretRef": {"name": name}}))
            if data in brokers:
                await keeper.until_condition(name, "BrokerReachable", "False", "SecretInvalid")
            else:
                await keeper.until_condition(name, "PolicyInSync", "Unknown", "SecretInvalid")
                await keeper.until_condition(name, "Ready", "True", "AsDeclared")
        secret(keeper, rabbitmq)
        keeper.put(task_queue("mail"))
        await keeper.until_condition("mail", "Ready", "True", "AsDeclared")
        await keeper.until_condition("mail", "PolicyInSync", "True", "AsDeclared")

    story(told)


def test_wrong_credentials_missing_virtual_host_and_rights_each_have_a_name_and_heal(rabbitmq):
    """No password in any of them."""
    server, host = rabbitmq.server, rabbitmq.name
    user = f"user-of-{host}"

    async def told(keeper):
        server.api("PUT", f"users/{user}", password="right", tags="policymaker")
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        server.api("PUT", f"permissions/{host}/{user}", **everything)
        url = server.url(host, user, "wrong")
        keeper.secrets.put(url=url, managementUrl=server.management_url)
        keeper.put(task_queue("mail"))
        message = await keeper.until_condition("mail", "Ready", "False", "AuthFailed")
        assert "check user and password" in message
        assert "wrong" not in message
        keeper.secrets.put(url=server.url("nowhere", user, "right"), managementUrl=server.management_url)
        message = await keeper.until_condition("mail", "Ready", "False", "VirtualHostNotFound")
        assert "nowhere" in message
        keeper.secrets.put(url=server.url(host, user, "right"), managementUrl=server.management_url)
        await keeper.until_condition("mail", "PolicyInSync", "True", "AsDeclared")
        await keeper.until_condition("mail", "Ready", "True", "AsDeclared")
        server.api("DELETE", f"permissions/{host}/{user}")
        message = await keeper.until_condition("mail", "Ready", "False", "PermissionMissing")
        assert "right" not in message.replace("rights", "").replace("the right to", "")
        server.api("PUT", f"permissions/{host}/{user}", **everything)
        await keeper.until_condition("mail", "Ready", "True", "AsDeclared")
        server.api("PUT", f"users/{user}", password="right", tags="management")
        message = await keeper.until_condition("mail", "PolicyInSync", "False", "PermissionMissing")
        assert f"user {user} may not write policies: give it the tag policymaker" in message
        server.api("PUT", f"users/{user}", password="right", tags="policymaker")
        await keeper.until_condition("mail", "PolicyInSync", "True", "AsDeclared")

    try:
        story(told)
    finally:
        server.api("DELETE", f"users/{user}")


@pytest.mark.parametrize("with_management", [True, False], ids=["management", "AMQP alone"])
@pytest.mark.parametrize(
    ("reason", "raise_it", "lower_it"),
    [
        ("MemoryAlarm", ("set_vm_memory_high_watermark", "0.00001"), ("set_vm_memory_high_watermark", "0.4")),
        ("DiskAlarm", ("set_disk_free_limit", "1000000GB"), ("set_disk_free_limit", "50MB")),
    ],
)
def test_an_alarm_is_told_and_heals(own_rabbitmq_server, reason, raise_it, lower_it, with_management):
    """Of memory or disk; the queue stays Ready, since workers may go on to take tasks."""
    server = own_rabbitmq_server

    async def told(keeper):
        more = {"managementUrl": server.management_url} if with_management else {}
        keeper.secrets.put(url=server.url(), **more)
        keeper.put(task_queue("mail"))
        await keeper.until_condition("mail", "BrokerAlarm", "False", "AsDeclared")
        await asyncio.to_thread(server.control, *raise_it)
        message = await keeper.until_condition("mail", "BrokerAlarm", "True", reason)
        assert "RabbitMQ takes no messages" in message
        assert keeper.condition("mail", "Ready")[0] == "True"
        await asyncio.to_thread(server.control, *lower_it)
        await keeper.until_condition("mail", "BrokerAlarm", "False", "AsDeclared")

    story(told)


@pytest.mark.parametrize("kind", ["Quorum", "Classic"])
def test_what_expires_lies_among_the_dead_letters_whatever_way_it_came(rabbitmq, kind):
    """By the default exchange, by an exchange of the user's with a key of its own, and after a delay."""

    async def told(keeper):
        secret(keeper, rabbitmq)
        keeper.put(task_queue("mail", type=kind, messageTTL="1s", deadLetter={"queueName": "graves"}))
        keeper.put(task_queue("post", type=kind))
        await keeper.until_condition("mail", "PolicyInSync", "True", "AsDeclared")
        await asyncio.to_thread(send_three_ways, rabbitmq.url, "mail")
        found = []

        def all_three():
            found.extend(rabbitmq.messages("graves"))
            return len(found) == 3

        await keeper.until(all_three, "three dead letters")
        assert sorted(each["payload"] for each in found) == ["default", "delayed", "media"]
        assert rabbitmq.messages("muster.dead.other") == []

    story(told)


def send_three_ways(url, queue):
    line = Line(addresses(url, heartbeat_seconds=60))
    line.open()
    line.ask(lambda done: line.channel.exchange_declare("media", "topic", durable=True, callback=done))
    line.ask(lambda done: line.channel.queue_bind(queue, "media", "media.#", callback=done))
    for part in (*layout("classic"), return_of(queue)):
        declare_part(line, part)
    properties = pika.BasicProperties(delivery_mode=2)
    line.publish(
        [
            Parcel("", queue, b"default", properties),
            Parcel("media", "media.video", b"media", properties),
            Parcel(ENTRY, routing_key(1, queue), b"delayed", properties),
        ],
        10,
    )
    line.close()


def test_a_queue_that_rejects_and_one_with_too_few_members_say_so(rabbitmq):
    """Each with the remedy; a classic queue is mirrored by policy where the broker knows that."""

    async def told(keeper):
        secret(keeper, rabbitmq)
        keeper.put(task_queue("mail", maxLength=5, overflow="RejectPublish", ha={"replicas": 3}))
        keeper.put(task_queue("post", type="Classic", ha={"replicas": 2}, consumerTimeout="2h"))
        message = await keeper.until_condition(
            "mail", "UnconfirmedPublishersLoseTasks", "True", "RejectsWhenFull"
        )
        assert '{"confirm_publish": True}' in message
        message = await keeper.until_condition("mail", "UnderReplicated", "True", "TooFewMembers")
        assert "queue mail has 1 of 3 members online" in message
        message = await keeper.until_condition("mail", "ClientsMustDeclareQuorum", "True", "MoreArguments")
        assert "'x-quorum-initial-group-size': 3" in message
        await keeper.until_condition("post", "PolicyInSync", "True", "AsDeclared")
        found = effective(rabbitmq, "post")
        assert (found["ha-mode"], found["ha-params"]) == ("exactly", 2)
        assert rabbitmq.queue("post")["arguments"] == {}
        message = await keeper.until_condition("post", "LimitsEnforced", "False", "NotOnThisBroker")
        assert "spec.consumerTimeout (the server's own consumer_timeout holds" in message

    story(told)


def test_a_classic_queue_has_the_priorities_that_are_asked_for(rabbitmq):
    """Its dead letters' has none; other priorities later are a mismatch, and the queue is left alone."""

    async def told(keeper):
        secret(keeper, rabbitmq)
        keeper.put(task_queue("mail", type="Classic", maxPriority=9))
        await keeper.until_condition("mail", "Ready", "True", "AsDeclared")
        assert rabbitmq.queue("mail")["arguments"] == {"x-max-priority": 9}
        assert rabbitmq.queue("mail.dead")["arguments"] == {}
        message = await keeper.until_condition("mail", "ClientsMustDeclareArguments", "True", "MoreArguments")
        assert "queue_arguments={'x-max-priority': 9}" in message
        keeper.put(task_queue("mail", type="Classic", maxPriority=5))
        message = await keeper.until_condition("mail", "QueueMismatch", "True", "OtherArguments")
        assert "it has {x-max-priority: 9}, and {x-max-priority: 5} is wanted" in message
        assert rabbitmq.queue("mail")["arguments"] == {"x-max-priority": 9}

    story(told)


@pytest.mark.parametrize(("kind", "removed"), [("Classic", True), ("Quorum", False)])
def test_an_empty_queue_is_removed_where_the_broker_can_tell_and_a_full_one_stays(rabbitmq, kind, removed):
    """Its policies go with its TaskQueue; no message is lost."""

    async def told(keeper):
        secret(keeper, rabbitmq)
        for name in ("empty", "full"):
            keeper.put(task_queue(name, type=kind, deletionPolicy="Delete"))
            await keeper.until_condition(name, "PolicyInSync", "True", "AsDeclared")
        rabbitmq.server.api(
            "POST",
            f"exchanges/{rabbitmq.name}/amq.default/publish",
            properties={"delivery_mode": 2},
            routing_key="full",
            payload="a task",
            payload_encoding="string",
        )
        keeper.delete("TaskQueue", "empty")
        keeper.delete("TaskQueue", "full")
        await keeper.until(lambda: not list(keeper.store.of("TaskQueue")), "the objects' end")
        assert [each["payload"] for each in rabbitmq.messages("full")] == ["a task"]
        there = {each["name"] for each in rabbitmq.server.api("GET", f"queues/{rabbitmq.name}")}
        assert ("empty" in there, "empty.dead" in there) == (not removed, not removed)
        told_of = {name for name, reason, _ in keeper.events if reason == "QueueRetained"}
        assert told_of == ({"full"} if removed else {"full", "empty"})

    story(told)


def test_a_steady_virtual_host_is_written_to_no_more(rabbitmq):
    """Neither after a while nor by the next operator."""

    async def told(keeper):
        secret(keeper, rabbitmq)
        keeper.put(task_queue("mail"))
        await keeper.until_condition("mail", "PolicyInSync", "True", "AsDeclared")

    story(told)

    async def told_again(keeper):
        secret(keeper, rabbitmq)
        keeper.put(task_queue("mail"))
        await keeper.until_condition("mail", "PolicyInSync", "True", "AsDeclared")
        await keeper.until_condition("mail", "Ready", "True", "AsDeclared")
        assert keeper.confirmed == []

    story(told_again)


def test_only_the_leader_writes_to_a_virtual_host(rabbitmq):
    """Another operator reads it all the same."""

    async def told(keeper):
        keeper.leads = False
        secret(keeper, rabbitmq)
        keeper.put(task_queue("mail"))
        await keeper.until_condition("mail", "Ready", "False", "Progressing")
        there = {each["name"] for each in rabbitmq.server.api("GET", f"queues/{rabbitmq.name}")}
        assert {name for name in there if not name.startswith("amq.gen")} == set()
        keeper.leads = True
        await keeper.until_condition("mail", "Ready", "True", "AsDeclared")

    story(told)


@pytest.mark.slow
@pytest.mark.soak("RabbitMQ: a thousand TaskQueues are ready within a minute, with few policies")
@pytest.mark.parametrize("kind", ["Quorum", "Classic"])
def test_many_queues_are_ready_within_a_minute_with_few_policies(own_rabbitmq_server, account, times, kind):
    """A hundred here, a thousand in full, of three definitions: a policy for each, one for dead letters, one
    for events."""
    server = own_rabbitmq_server
    lengths = (10, 20, 30)
    count = 100 * times

    async def told(keeper):
        keeper.secrets.put(url=server.url(), managementUrl=server.management_url)
        for number in range(count):
            keeper.put(task_queue(f"queue-{number:04}", type=kind, maxLength=lengths[number % 3]))
        began = time.monotonic()

        def all_ready():
            found = [
                condition
                for body in keeper.store.of("TaskQueue")
                for condition in body["status"].get("conditions", ())
            ]
            return sum((each["type"], each["status"]) == ("Ready", "True") for each in found) == count

        await keeper.until(all_ready, f"{count} queues", 120)
        took = time.monotonic() - began
        found = server.api("GET", "policies/%2F")
        account(queues=count, policies=len(found), ready_seconds=took)
        assert took < 60
        assert len(found) <= 6

    story(told)
