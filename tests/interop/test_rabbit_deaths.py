"""A task that kills each worker, on RabbitMQ: it does not count deaths, so the store of the results does."""

import json
import subprocess

import pytest

from lab import LABAPP
from procs import eventually

pytestmark = [pytest.mark.amqp, pytest.mark.ours]


@pytest.fixture
def own_lab(own_rabbit_lab):
    yield own_rabbit_lab


@pytest.mark.long
@pytest.mark.limit(420)
def test_what_kills_each_worker_is_buried_after_three_and_what_was_beside_it_is_done(own_lab):
    lab, path = own_lab, own_lab.path()
    beside = [lab.marked.apply_async((path, tag, 0.2)) for tag in range(6)]
    killer = lab.dies_here.delay()
    deaths, worker = 0, lab.worker(concurrency=2)
    while not killer.ready():
        assert eventually(lambda: killer.ready() or not worker.alive(), 150, 0.1), worker.text()
        if not worker.alive():
            deaths += 1
            assert deaths <= 3, "it is run for ever"
            worker = lab.worker(concurrency=2)
    assert deaths == 3 and killer.state == "FAILURE", (deaths, killer.state)
    assert [each.get(timeout=150) for each in beside] == list(range(6))
    said = json.loads(subprocess.run([LABAPP, "--json", "dead", "list", "--broker", lab.broker_url], capture_output=True, text=True, timeout=20).stdout)
    assert said["task"] == "lab.dies_here" and "3 workers died" in said["reason"], said
    assert lab.add.delay(1, 2).get(timeout=10) == 3
