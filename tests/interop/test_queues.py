"""Queues, priorities, exchanges, an older protocol: how a message comes to its worker."""

import json
import time

import pytest
from celery import chord, group, uuid
from kombu import Exchange, Queue

import labapp
from procs import eventually

pytestmark = pytest.mark.alone


def test_priority_0_is_served_first_and_equals_in_their_order(own_lab):
    lab, path = own_lab, own_lab.path()
    for n, priority in enumerate([9, 5, 0, 3, 9, 0, 7]):
        lab.marked.apply_async((path, f"{priority}-{n}"), priority=priority)
    lab.marked.delay(path, "none-7")
    lab.worker(concurrency=1, **({"pool": "solo"} if lab.kind == "python" else {}))
    assert lab.wait_empty() == {}
    # Steps of 3: 5 is served with 3, 7 with 6.
    assert [words[1] for words in lab.marks(path) if words[0] == "start"] == ["0-2", "0-5", "none-7", "5-1", "3-3", "7-6", "9-0", "9-4"]


def test_a_worker_serves_the_queues_that_it_is_told_to_and_no_other(own_lab):
    lab = own_lab
    lab.worker(queues="images,video")
    elsewhere = lab.add.apply_async((9, 9))
    assert lab.add.apply_async((1, 1), queue="images").get(timeout=10) == 2
    assert lab.request.apply_async(queue="video").get(timeout=10)["queue"] == "video"
    assert elsewhere.state == "PENDING" and lab.redis.llen("celery") == 1


def test_a_busy_queue_does_not_hold_up_another_one(own_lab):
    lab, path = own_lab, own_lab.path()
    for n in range(60):
        lab.marked.apply_async((path, f"many-{n}", 0.01), queue="many")
    lab.marked.apply_async((path, "few"), queue="few")
    lab.worker(queues="many,few", concurrency=1, **({"pool": "solo"} if lab.kind == "python" else {}))
    assert lab.wait_empty() == {}
    order = [words[1] for words in lab.marks(path) if words[0] == "start"]
    assert len(order) == 61 and order.index("few") < 20


@pytest.mark.compared
def test_the_end_of_a_chord_waits_for_no_full_lane_of_ours_and_for_all_before_it_with_celery(own_lab):
    """Where the client has no counter for its chords, `celery.chord_unlock` looks for their end. With Celery it needs a place in the pool, like all others."""
    lab, part = own_lab, own_lab.app.AsyncResult(uuid())
    lab.app.backend.store_result(part.id, 3, "SUCCESS")
    # Ours with as many places beside its full lane as it has where nobody says how many.
    lab.worker(concurrency=1, env={"LAB_ONE_LANE": "1"}, flags=["--lane", "async=200"] if lab.kind == "longshore" else [])
    begun = time.monotonic()
    before = [lab.slow.delay(0.5) for _ in range(6)]
    lab.app.send_task("celery.chord_unlock", ("group", lab.tsum.s().set(queue="bodies"), 0.05, None, [part.as_tuple()]))
    assert eventually(lambda: lab.redis.llen("bodies"), 15, 0.01) == 1
    seconds, ended = time.monotonic() - begun, sum(each.ready() for each in before)
    print(f"{lab.kind}: the body of the chord was sent after {seconds:.2f} s, when {ended} of {len(before)} had ended")
    assert ended == len(before) if lab.kind == "python" else ended < len(before)
    assert [each.get(timeout=10) for each in before] == [None] * 6


def test_a_message_comes_through_a_named_exchange(own_lab):
    lab = own_lab
    queue = Queue("clips", Exchange("media", type="direct"), routing_key="video")
    sent = lab.request.apply_async(queue=queue)
    lab.worker(queues="clips")
    request = sent.get(timeout=10)
    assert request["queue"] in ("video", "clips")
    # A retry is sent through the same exchange, and finds its way back.
    assert lab.flaky.apply_async((1, 0.05), queue=queue).get(timeout=10) == ["ok", 1]
    assert lab.wait_empty() == {}


def test_a_retry_goes_back_to_the_queue_that_it_came_from_with_its_priority(own_lab):
    lab = own_lab
    lab.worker(queues="images")
    assert lab.flaky.apply_async((2, 0.05), queue="images", priority=3).get(timeout=10) == ["ok", 2]
    assert lab.wait_empty() == {}


def test_what_a_task_sends_goes_to_the_default_queue(own_lab):
    lab = own_lab
    lab.worker(queues="images,celery")
    chain = (lab.add.s(1, 1).set(queue="images") | lab.request.si()).apply_async()
    assert chain.get(timeout=10)["queue"] == "celery"


ROUTES = {"lab.request": {"queue": "asked", "priority": 3}, "lab.t*": "told", "lab.[mn]ul*": {"queue": "maths"}, "lab.*": "rest"}
QUEUES = ["celery", "asked", "told", "maths", "rest", "own"]


def waiting(lab):
    """What waits, by its task: the queue that it lies in (with Redis's suffix for its priority), and its priority."""
    found = {}
    for key in lab.redis.keys("*"):
        name = key.decode()
        if name.split("\x06")[0] in QUEUES:
            for raw in lab.redis.lrange(key, 0, -1):
                message = json.loads(raw)
                found.setdefault(message["headers"]["task"], []).append((name.split("\x06")[0], message["properties"]["priority"]))
    return found


def test_a_worker_routes_what_its_tasks_send_by_its_own_routes(own_lab):
    """A client that knows no routes sends the first link; all others are the worker's to send."""
    lab = own_lab
    lab.worker(queues="celery", routes=ROUTES)
    (lab.add.s(1, 1) | lab.request.si()).apply_async()
    (lab.add.s(1, 1) | lab.mul.s(2).set(queue="own", priority=7)).apply_async()
    lab.add.apply_async((1, 1), link=lab.tsum.s())
    lab.fail.apply_async(("oh",), link_error=lab.told.s())
    chord([lab.add.s(1, 1), lab.add.s(2, 2)])(lab.mul.si(3, 3).set(priority=5))
    lab.replaced.apply_async((1, 1))
    lab.spawn.apply_async((1,))
    expected = {
        "lab.request": [("asked", 3)], "lab.mul": [("maths", 5), ("own", 7)], "lab.tsum": [("told", 0)], "lab.told": [("told", 0)],
        "lab.add": [("rest", 0), ("rest", 0)],
    }  # fmt: skip
    assert eventually(lambda: {task: sorted(places) for task, places in waiting(lab).items()} == expected, 10), waiting(lab)
    assert lab.app.control.inspect(timeout=5).conf()[lab.workers[0].node]["task_routes"]["lab.request"] == {"queue": "asked", "priority": 3}
    lab.redis.flushdb()


def test_a_retry_stays_where_it_is_whatever_the_routes_say(own_lab):
    lab = own_lab
    lab.worker(queues="celery", routes={"lab.*": {"queue": "elsewhere", "priority": 9}})
    assert lab.flaky.apply_async((2, 0.05)).get(timeout=10) == ["ok", 2]
    assert lab.wait_empty() == {}


def test_a_chain_of_routed_tasks_finds_its_way(own_lab):
    """Two workers of other queues hand a chain to and fro, as long as both know the routes."""
    lab = own_lab
    routes = {"lab.add": "adds", "lab.mul": "muls"}
    lab.worker(queues="adds", routes=routes)
    lab.worker("python" if lab.kind == "longshore" else lab.kind, queues="muls", routes=routes)
    chain = lab.add.s(1, 1).set(queue="adds") | lab.mul.s(5) | lab.add.s(1) | lab.mul.s(2)
    assert chain.apply_async().get(timeout=15) == 22


PROPERTIES = {"app_id": "a1", "user_id": 5, "type": "t", "message_id": "m", "weird": {"x": [1]}}


def test_properties_of_a_message_reach_its_task(own_lab):
    lab = own_lab
    lab.worker()
    assert lab.request.apply_async(**PROPERTIES).get(timeout=10)["properties"] == PROPERTIES
    # Of a link those that stand in its own signature, and none of the message before.
    chain = (lab.add.s(1, 1) | lab.request.si().set(app_id="link")).apply_async(app_id="first")
    assert chain.get(timeout=10)["properties"] == {"app_id": "link"}
    chain = (lab.add.s(1, 1) | lab.request.si()).apply_async(app_id="first")
    assert chain.get(timeout=10)["properties"] == {}
    body = chord([lab.add.s(1, 1).set(app_id="part"), lab.add.s(2, 2)])(lab.request.si().set(user_id="body"))
    assert body.get(timeout=10)["properties"] == {"user_id": "body"}
    group([lab.request.si().set(app_id="part", queue="own"), lab.request.si().set(queue="own")]).apply_async(app_id="call")
    properties = [json.loads(raw)["properties"] for raw in lab.redis.lrange("own", 0, -1)]
    assert [each["app_id"] for each in properties] == ["call", "call"]
    lab.redis.delete("own")


def test_properties_go_with_a_retry(own_lab):
    """Celery's own drops them: what is kept here is more, and no client can mistake it."""
    lab = own_lab
    lab.worker()
    sent = lab.flaky_request.apply_async((1,), **PROPERTIES)
    assert sent.get(timeout=10)["properties"] == (PROPERTIES if lab.kind == "longshore" else {})


def test_a_client_that_speaks_protocol_1_is_served(own_lab):
    lab = own_lab
    app = labapp.make_app(lab.broker_url, conf={"task_protocol": 1})
    lab.worker()
    try:
        assert app.lab["add"].delay(2, 3).get(timeout=10) == 5
        assert app.lab["echo"].apply_async((1,), {"k": 2}).get(timeout=10) == {"args": [1], "kwargs": {"k": 2}}
        with pytest.raises(ValueError):
            app.lab["fail"].delay("oh").get(timeout=10)
        assert app.lab["flaky"].delay(1, 0.05).get(timeout=10) == ["ok", 1]
    finally:
        app.close()
    assert lab.wait_empty() == {}


@pytest.mark.needs("msgpack")
def test_msgpack_is_read_where_it_is_accepted(own_lab):
    accept = {"accept_content": ["json", "msgpack"]}
    lab = own_lab
    app = labapp.make_app(lab.broker_url, conf={**accept, "task_serializer": "msgpack"})
    lab.worker(**({"conf": accept} if lab.kind == "python" else {"flags": ["--accept", "json,msgpack"]}))
    try:
        assert app.lab["echo"].delay(1, "two", [3.5, None], {"k": b"bytes".decode()}).get(timeout=10)["args"] == [1, "two", [3.5, None], {"k": "bytes"}]
    finally:
        app.close()
