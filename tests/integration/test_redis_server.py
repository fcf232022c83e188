"""The Redis server that other tests rely on."""

from servers import RedisServer


def test_what_was_confirmed_survives_a_kill(own_redis_server: RedisServer):
    """A write that was answered is there after SIGKILL and a new start, on the same URL."""
    url = own_redis_server.url
    with own_redis_server.client() as client:
        client.rpush("queue", *range(1000))
    own_redis_server.kill9()
    assert not own_redis_server.running
    own_redis_server.start()
    with own_redis_server.client() as client:
        assert client.llen("queue") == 1000
    assert own_redis_server.url == url


def test_an_orderly_restart_keeps_everything(own_redis_server: RedisServer):
    """A stop and a start give a new process with the old data."""
    pid = own_redis_server.pid
    with own_redis_server.client() as client:
        client.set("key", "value")
    own_redis_server.restart()
    assert own_redis_server.pid != pid
    with own_redis_server.client() as client:
        assert client.get("key") == b"value"


def test_flushing_leaves_nothing_of_an_earlier_test(redis_server: RedisServer):
    """Keys, functions' caches and connections of others are gone after a flush."""
    with redis_server.client() as earlier, redis_server.client() as client:
        earlier.set("key", "value")
        script = earlier.script_load("return 1")
        before = earlier.client_id()
        redis_server.flush()
        assert client.dbsize() == 0
        assert client.script_exists(script) == [False]
        assert client.client_list(client_id=[before]) == []
