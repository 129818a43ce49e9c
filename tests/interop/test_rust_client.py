"""Our client before Celery's workers: what is built with Celery's own canvas is sent by ours, and its results are read by ours."""

import json

import pytest

from canvases import Maker
from lab import LABAPP, pick
from ourclient import Client
from test_canvas import SHAPES

pytestmark = [pytest.mark.celerys, pytest.mark.skipif(not LABAPP, reason="LONGSHORE_LABAPP names no program")]


@pytest.fixture(scope="module")
def client(staffed):
    client = Client(staffed.broker_url)
    yield client
    client.close()


def test_a_task_gives_its_result(lab, client):
    assert client.call(lab.add.s(2, 3))["result"] == 5


def test_arguments_and_options_arrive(lab, client):
    signature = lab.request.s().set(headers={"x-foo": "bar"}, priority=4, shadow="pretty", time_limit=60, soft_time_limit=50, task_id="from-rust")
    said = client.call(signature)
    request = said["result"]
    assert said["id"] == request["id"] == request["root_id"] == "from-rust" and request["priority"] == 4
    assert request["headers"]["x-foo"] == "bar" and request["shadow"] == "pretty" and request["timelimit"] == [60, 50]
    lab.app.AsyncResult("from-rust").forget()


@pytest.mark.parametrize("value", [None, True, 1.5, "ü🚢", [1, [2, {}]], {"a": {"b": []}}, 2**80, {"__type__": "decimal", "__value__": "1.50"}], ids=repr)
def test_values_go_there_and_back(lab, client, value):
    assert client.call(lab.identity.s(value))["result"] == value


@pytest.mark.parametrize(("compression", "named"), [("zlib", "application/x-gzip"), ("zstd", "application/zstd")])
def test_a_compressed_body_is_read_by_celerys_worker(lab, client, compression, named):
    text = "many words " * 5_000
    signature = lab.identity.s(text).set(compression=compression)
    assert client.call(signature)["result"] == text
    # Where nobody takes it, it can be looked at.
    assert "id" in client.told(client.tell(send=signature.set(queue="nobodys")))
    message = json.loads(lab.redis.lpop("nobodys"))
    assert message["headers"]["compression"] == named and len(message["body"]) < 2_000


def test_an_error_is_read_with_its_type_and_arguments(lab, client):
    error = client.call(lab.fail.s("oh"))["error"]
    assert error == {"type": "ValueError", "module": "builtins", "args": ["oh", 42], "state": "FAILURE"}


def test_what_expired_is_read_as_revoked(lab, client):
    error = client.call(lab.add.s(1, 1).set(expires="2020-01-01T00:00:00+00:00"))["error"]
    assert (error["type"], error["state"], error["args"]) == ("TaskRevokedError", "REVOKED", ["expired"])


def test_a_countdown_is_kept(lab, client):
    assert "result" not in client.told(client.tell(send=lab.add.s(1, 1).set(countdown=1.5), wait=0.5))
    assert client.call(lab.add.s(1, 1).set(countdown=0.2))["result"] == 2


def test_celerys_client_reads_what_ours_has_sent_and_ours_what_celerys_has(lab, client):
    id = client.told(client.tell(send=lab.add.s(20, 22)))["id"]
    assert lab.app.AsyncResult(id).get(timeout=10) == 42
    assert client.told(client.tell(get=lab.add.delay(1, 2).id, wait=10))["result"] == 3


@pytest.mark.parametrize("shape", SHAPES)
def test_a_canvas_of_this_shape_comes_to_its_result(lab, client, shape):
    make, expected = SHAPES[shape]
    assert client.call(make(lab)).get("result") == expected
    assert lab.wait_empty() == {}


@pytest.mark.limit(pick(60, 600))
def test_canvases_at_random_come_to_their_results_and_leave_nothing(lab, client):
    sent = []
    for seed in range(1, pick(40, 500)):
        maker = Maker(lab, seed)
        signature, value = maker.scalar(True, maker.random.randrange(1, 4))
        sent.append((seed, value(None), client.tell(send=signature, wait=30)))
    said = [(seed, expected, client.told(n, 40)) for seed, expected, n in sent]
    wrong = [(seed, expected, answer) for seed, expected, answer in said if answer.get("result") not in (expected, [expected])]
    assert not wrong, wrong[:5]
    assert lab.wait_empty() == {}
