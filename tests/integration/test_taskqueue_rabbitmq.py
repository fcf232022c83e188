"""TaskQueues on a real RabbitMQ: declared, kept as declared, and every trouble by its name."""


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
