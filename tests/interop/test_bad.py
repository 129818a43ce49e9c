"""Bad messages. Each is followed by a good task, which must succeed."""

import base64
import json
import os
import pathlib
import uuid

import pytest

from lab import Lab
from procs import eventually
from wire import BAD, FINE, STRANGE

pytestmark = pytest.mark.alone


def state(lab, id):
    document = lab.redis.get(f"celery-task-meta-{id}")
    return json.loads(document)["status"] if document else None


def letters(lab):
    """The dead letters, the latest first: their reasons and their bytes."""
    found = [json.loads(letter) for queue in lab.dead().values() for letter in queue]
    return sorted(found, key=lambda letter: letter["at"], reverse=True)


def resident(pid):
    return int(next(line for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


@pytest.fixture(scope="module")
def bad_lab(kind, server, tmp_path_factory):
    """A worker for all bad messages: what one of them does to it, the next one finds."""
    lab = Lab(server, 240 + ["python", "longshore", "mixed"].index(kind), tmp_path_factory.mktemp("bad"), kind)
    lab.worker(concurrency=2)
    lab.rss = resident(lab.workers[0].pid)
    yield lab
    lab.close()


@pytest.fixture
def after_all(bad_lab):
    bad_lab.use()
    before, dead = bad_lab.workers[0].pid, len(letters(bad_lab))
    yield dead
    assert bad_lab.workers[0].alive() and bad_lab.workers[0].pid == before
    assert bad_lab.add.delay(1, 1).get(timeout=10) == 2
    assert bad_lab.wait_empty(5, chords=False) == {}


@pytest.mark.parametrize("what", FINE)
def test_an_unusual_message_is_run(bad_lab, after_all, what):
    id = str(uuid.uuid4())
    bad_lab.redis.lpush("celery", FINE[what](id))
    assert bad_lab.app.AsyncResult(id).get(timeout=10) == 3


@pytest.mark.ours
@pytest.mark.limit(60)
@pytest.mark.parametrize("what", BAD)
def test_a_bad_message_is_a_failure_or_a_dead_letter(bad_lab, after_all, what):
    id = str(uuid.uuid4())
    raw = BAD[what](id)
    bad_lab.redis.lpush("celery", raw)
    outcome = eventually(lambda: state(bad_lab, id) or len(letters(bad_lab)) > after_all, 20)
    assert outcome in ("FAILURE", True)
    if outcome == "FAILURE":
        # A client can read it: as an exception, not as an error of its own.
        result = bad_lab.app.AsyncResult(id)
        assert isinstance(result.result, BaseException) and str(result.result)
        bad_lab.redis.delete(f"celery-task-meta-{id}")
    else:
        letter = letters(bad_lab)[0]
        assert letter["reason"], letter
        if len(raw) < 1_000_000:
            assert base64.b64decode(letter["raw"]) == raw


@pytest.mark.ours
@pytest.mark.parametrize("what", STRANGE)
def test_a_strange_message_holds_up_nothing(bad_lab, after_all, what):
    id = str(uuid.uuid4())
    bad_lab.redis.lpush("celery", STRANGE[what](id))
    assert eventually(lambda: not bad_lab.redis.llen("celery"), 10)
    if what == "eta in the year 9999":
        bad_lab.app.control.revoke(id)
        # It is held until the end of time, which is no business of the next test.
        bad_lab.redis.delete("unacked", "unacked_index")


@pytest.mark.ours
def test_after_all_of_them_the_worker_is_as_small_as_before(bad_lab):
    assert not os.path.exists("/tmp/longshore-was-here")

    def growth():
        return resident(bad_lab.workers[0].pid) - bad_lab.rss

    # What came last may still be on its way out.
    assert eventually(lambda: growth() < 32), f"{growth():.0f} MiB more than before"
