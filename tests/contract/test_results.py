"""What every result store must hold: one suite, run on memory, SQLite and a real Redis."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from muster.core.effects import StoredResult
from muster.results.connect import connect_results
from muster.results.memory import MemoryResults
from muster.results.redis import RedisResults
from muster.wire.result import READY_STATES
from waiting import wait_for

FOR_EVER = 0


def stored(task_id="1", status="SUCCESS", retries=0, text="", expires_seconds=FOR_EVER):
    document = f'{{"status":"{status}","result":"{text}","retries":{retries},"task_id":"{task_id}"}}'
    return StoredResult(task_id, document.encode(), status, retries, expires_seconds)


@pytest.fixture(params=["memory", "sqlite", pytest.param("redis", marks=pytest.mark.servers)])
def make_store(request, tmp_path):
    """Return what gives one more connection to the same store."""
    made = []
    memory = MemoryResults()

    def make():
        match request.param:
            case "memory":
                return memory
            case "sqlite":
                made.append(connect_results(f"sqlite:///{tmp_path}/results.db"))
            case "redis":
                made.append(connect_results(request.getfixturevalue("redis_server").url))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def store(make_store):
    return make_store()


def test_what_was_never_stored_is_none(store):
    """An unknown id has no document, and waiting for it ends with the time."""
    assert store.get("1") is None
    assert store.wait("1", 0) is None
    assert store.wait("1", 0.01) is None


def test_a_batch_is_stored_and_read_byte_by_byte(store):
    """Documents come back as they were given, each under its id."""
    batch = [stored(str(n), text=f"{n} Grüße") for n in range(1200)]
    store.store(batch)
    assert [store.get(one.task_id) for one in batch] == [one.document for one in batch]


def test_an_empty_batch_is_nothing(store):
    """Storing nothing raises nothing."""
    store.store([])


@pytest.mark.parametrize("status", sorted(READY_STATES))
def test_a_ready_state_stays_against_the_same_retry(store, status):
    """Another run of the same retry, an extra one, changes nothing that a client may have read."""
    first = stored(status=status, retries=1, text="first")
    store.store([first])
    store.store([stored(status="SUCCESS", retries=1, text="second"), stored(status="RETRY", retries=0)])
    assert store.get("1") == first.document


def test_a_success_stays_for_ever(store):
    """Celery's rule: nothing replaces a success, not even a later retry."""
    store.store([stored(text="first", retries=0)])
    store.store([stored(status="FAILURE", retries=5)])
    assert store.get("1") == stored(text="first").document


def test_a_later_retry_replaces_a_failure(store):
    """Somebody sent the task again: its end is what counts."""
    store.store([stored(status="FAILURE", retries=0)])
    later = stored(status="SUCCESS", retries=1)
    store.store([later])
    assert store.get("1") == later.document


def test_states_on_the_way_are_replaced(store):
    """STARTED, RETRY and words of a task's own give way to whatever comes."""
    for status in ("STARTED", "PROGRESS", "RETRY", "STARTED", "FAILURE"):
        store.store([stored(status=status)])
        assert store.get("1") == stored(status=status).document


EVENTS = st.tuples(st.sampled_from(["STARTED", "RETRY", "SUCCESS", "FAILURE", "REVOKED"]), st.integers(0, 3))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.lists(EVENTS, max_size=8))
def test_the_stores_agree_with_the_rule(store, events):
    """After any history the document is the one that the rule leaves, on every store alike."""
    task_id = f"{time.time_ns()}"
    expected = None
    for number, (status, retries) in enumerate(events):
        result = stored(task_id, status, retries, text=str(number))
        store.store([result])
        stays = expected is not None and (
            expected.status == "SUCCESS"
            or (expected.status in READY_STATES and expected.retries >= result.retries)
        )
        expected = expected if stays else result
    assert store.get(task_id) == (expected.document if expected else None)


def test_a_forgotten_result_is_gone(store):
    """After `forget` nothing is there, and a new result is stored as the first."""
    store.store([stored()])
    store.forget("1")
    store.forget("never was")
    assert store.get("1") is None
    store.store([stored(status="FAILURE")])
    assert store.get("1") == stored(status="FAILURE").document


def test_an_expired_result_is_gone(store):
    """`expires_seconds` after it was stored a document is not there any more."""
    store.store([stored(expires_seconds=1), stored("2", expires_seconds=FOR_EVER)])
    assert store.get("1") is not None
    wait_for(lambda: store.get("1") is None, what="the result to expire")
    assert store.wait("1", 0) is None
    assert store.get("2") is not None
    store.store([stored(status="FAILURE")])
    assert store.get("1") == stored(status="FAILURE").document


def test_a_wait_ends_when_another_connection_stores(make_store):
    """Whoever waits is told of a result that another process has stored."""
    waiting, other = make_store(), make_store()
    with ThreadPoolExecutor() as pool:
        found = pool.submit(waiting.wait, "1", 20)
        other.store([stored(status="STARTED")])
        other.store([stored(status="RETRY"), stored(text="done")])
        assert found.result(timeout=20) == stored(text="done").document


def test_a_wait_ends_when_the_same_connection_stores(store):
    """The same within one process."""
    with ThreadPoolExecutor() as pool:
        found = pool.submit(store.wait, "1", 20)
        store.store([stored()])
        assert found.result(timeout=20) == stored().document


def test_a_result_that_is_there_ends_a_wait_at_once(store):
    """No announcement is needed for what is there already."""
    store.store([stored(status="FAILURE")])
    assert store.wait("1", None) == stored(status="FAILURE").document


def test_many_wait_and_each_gets_its_own(make_store):
    """Fifty threads that share one store, some for the same id, are all told, each of its own result."""
    waiting, other = make_store(), make_store()
    ids = [str(n % 30) for n in range(50)]
    with ThreadPoolExecutor(max_workers=50) as pool:
        found = [pool.submit(waiting.wait, task_id, 20) for task_id in ids]
        for n in range(30):
            other.store([stored(str(n), text=str(n))])
        for task_id, future in zip(ids, found, strict=True):
            assert future.result(timeout=20) == stored(task_id, text=task_id).document


def test_who_gives_up_takes_nobody_along(make_store):
    """A waiter whose time is over leaves the others waiting, and they are still told."""
    waiting, other = make_store(), make_store()
    with ThreadPoolExecutor() as pool:
        short = [pool.submit(waiting.wait, "1", 0.05), pool.submit(waiting.wait, "2", 0.05)]
        long = pool.submit(waiting.wait, "1", 20)
        assert [one.result(timeout=20) for one in short] == [None, None]
        other.store([stored()])
        assert long.result(timeout=20) == stored().document


def test_a_store_is_used_by_many_threads(store):
    """Storing and reading at the same time from several threads loses nothing."""

    def work(thread):
        for n in range(50):
            store.store([stored(f"{thread}-{n}")])
            assert store.get(f"{thread}-{n}") is not None

    with ThreadPoolExecutor(max_workers=4) as pool:
        list(pool.map(work, range(4)))


# -- Redis alone


def test_waits_go_on_through_a_restart(own_redis_server):
    """A restart of Redis while a client waits costs it nothing: it subscribes again and looks again."""
    store = RedisResults(own_redis_server.url)
    with ThreadPoolExecutor() as pool:
        found = pool.submit(store.wait, "1", 60)
        with own_redis_server.client() as client:
            wait_for(client.pubsub_channels, what="the subscription")
        own_redis_server.kill9()
        own_redis_server.start()
        other = RedisResults(own_redis_server.url)
        other.store([stored()])
        assert found.result(timeout=60) == stored().document
        other.close()
    store.close()


def test_all_waits_share_one_connection_and_leave_no_subscription(redis_server):
    """However many threads wait, the server sees one subscriber, and none when they have gone."""
    store = RedisResults(redis_server.url)
    with redis_server.client() as client, ThreadPoolExecutor(max_workers=20) as pool:
        found = [pool.submit(store.wait, str(n), 20) for n in range(20)]
        wait_for(lambda: len(client.pubsub_channels()) == 20, what="all subscriptions")
        assert len([one for one in client.client_list() if int(one["sub"])]) == 1
        RedisResults(redis_server.url).store([stored(str(n)) for n in range(20)])
        assert all(one.result(timeout=20) for one in found)
        wait_for(lambda: not client.pubsub_channels(), what="the subscriptions to end")
    store.close()


def test_a_prefix_stands_before_keys_and_channels(redis_server):
    """`global_keyprefix` leads to Celery's keys behind the prefix, for storing and for waiting."""
    store = connect_results(redis_server.url, {"global_keyprefix": "shop_"})
    with ThreadPoolExecutor() as pool, redis_server.client() as client:
        found = pool.submit(store.wait, "1", 20)
        wait_for(lambda: client.pubsub_channels() == [b"shop_celery-task-meta-1"], what="the subscription")
        store.store([stored()])
        assert found.result(timeout=20) == stored().document
        assert client.keys() == [b"shop_celery-task-meta-1"]
    store.close()


def test_threads_that_come_and_go_are_all_told(redis_server):
    """Waits that begin, end and time out at random moments around results never miss one."""
    store, other = RedisResults(redis_server.url), RedisResults(redis_server.url)
    told = []

    def client(thread):
        for n in range(40):
            task_id = f"{thread % 5}-{n}"
            store.wait(task_id, 0.001 * (thread % 3))
            if thread < 5:
                other.store([stored(task_id)])
            told.append(store.wait(task_id, 30))

    threads = [threading.Thread(target=client, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(told) == 400
    assert None not in told
    store.close()
    other.close()
