"""The examples, applied as they are."""

import json

from example_shop import EXAMPLES, Shop
from waiting import wait_for


def test_the_web_service_places_orders_and_tells_their_confirmations(empty_shop: Shop):
    """POST /orders gives ids, GET /orders/<id> the confirmation once a worker has run; each ran once."""
    ids = empty_shop.order(20)
    answers = [
        wait_for(
            lambda task_id=task_id: empty_shop.result(task_id),
            until=lambda found: found["state"] != "PENDING",
            what=f"the result of {task_id}",
            timeout_seconds=120,
        )
        for task_id in ids
    ]
    assert {each["state"] for each in answers} == {"SUCCESS"}
    assert [each["confirmation"]["order"] for each in answers] == [f"order {number}" for number in range(20)]
    assert all(each["confirmation"]["cents"] > 0 for each in answers)
    assert empty_shop.books().starts == dict.fromkeys(ids, 1)


def test_a_stock_celery_client_reads_what_musters_workers_return(empty_shop: Shop):
    """The example's Job, with Celery alone in its image, gets the right answer to each of 1,000 tasks."""
    cluster, namespace = empty_shop.cluster, empty_shop.namespace
    cluster.apply(EXAMPLES / "celery-client/manifests/job.yaml", namespace=namespace)
    try:
        job = cluster.wait_for_object(
            "Job",
            "celery-client",
            lambda seen: {"succeeded", "failed"} & (seen or {}).get("status", {}).keys(),
            namespace=namespace,
            api_version="batch/v1",
            timeout_seconds=240,
        )
        log = empty_shop.kubectl("logs", "job/celery-client")
        assert job["status"].get("succeeded") == 1, log
        sent, confirmed = (json.loads(line) for line in log.splitlines())
        assert confirmed == {"confirmed": 1000, "wrong": 0}
        assert empty_shop.books().starts == dict.fromkeys(sent["sent"], 1)
    finally:
        cluster.delete(
            "Job",
            "celery-client",
            namespace=namespace,
            api_version="batch/v1",
            propagationPolicy="Background",
        )
