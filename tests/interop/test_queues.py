"""Queues, priorities, exchanges, an older protocol: how a message comes to its worker."""

import pytest
from kombu import Exchange, Queue

import labapp

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
