"""Kafka: another client's members beside ours in one group."""

import os
import threading
from collections import Counter

import pytest

from lab import LABAPP, pick
from procs import Process, eventually

confluent_kafka = pytest.importorskip("confluent_kafka")

ADDRESS = os.environ.get("LONGSHORE_KAFKA", "")
pytestmark = [
    pytest.mark.needs("kafka"),
    pytest.mark.skipif(not ADDRESS, reason="no Kafka: LONGSHORE_KAFKA=HOST:PORT, or KAFKA_HOME for the test that runs these"),
]


class Member(threading.Thread):
    """A member as confluent-kafka's users write it: one record after the other, each committed when it is done."""

    def __init__(self, topic, group):
        super().__init__(daemon=True)
        self.topic, self.group, self.done, self.told = topic, group, [], threading.Event()

    def run(self):
        consumer = confluent_kafka.Consumer({
            "bootstrap.servers": ADDRESS,
            "group.id": self.group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "partition.assignment.strategy": "cooperative-sticky",
        })
        consumer.subscribe([self.topic])
        while not self.told.is_set():
            record = consumer.poll(0.1)
            if record is None or record.error():
                continue
            self.done.append(int(record.value()))
            consumer.commit(record, asynchronous=False)
        consumer.close()

    def leave(self):
        self.told.set()
        self.join(30)
        assert not self.is_alive()


@pytest.mark.limit(240)
def test_a_python_member_shares_our_group_comes_and_leaves_and_nothing_is_skipped(tmp_path):
    name = f"shared-{os.getpid()}-{os.urandom(4).hex()}"
    assert Process([LABAPP, "kafka", "create-topic", name, "-b", ADDRESS, "--partitions", "6"], tmp_path / "create").wait(60) == 0
    producer, records = confluent_kafka.Producer({"bootstrap.servers": ADDRESS, "linger.ms": 5}), pick(6_000, 60_000)

    def produce(numbers):
        for number in numbers:
            producer.produce(name, key=f"k{number % 500}", value=str(number))
        assert producer.flush(30) == 0

    # Ours pipes each value through a child that gives it back: its output is what we did.
    ours = Process(
        [LABAPP, "kafka", "consume", name, "-b", ADDRESS, "--group", name, "--max-threads", "4", "--pipe", "cat", "--rate", "300/s"],
        tmp_path / "ours",
    )

    def our_done():
        return [int(line) for line in ours.text().splitlines() if line.isdigit()]

    produce(range(records // 3))
    assert eventually(lambda: len(our_done()) > 200, 60), ours.text()[-2000:]
    theirs = Member(name, name)
    theirs.start()
    produce(range(records // 3, records * 5 // 6))
    assert eventually(lambda: len(theirs.done) > 500, 60), "it got nothing beside ours"
    # However long that took, there is something left for both.
    before = len(our_done())
    produce(range(records * 5 // 6, records))
    assert eventually(lambda: len(our_done()) > before + 200, 60), "ours got nothing beside it"
    theirs.leave()
    everything = set(range(records))
    assert eventually(lambda: everything <= set(our_done()) | set(theirs.done), 120), sorted(everything - set(our_done()) - set(theirs.done))[:20]
    done = Counter(our_done()) + Counter(theirs.done)
    assert set(done) == everything
    # It commits each record, and whoever leaves commits first.
    repeated = sum(done.values()) - records
    assert repeated <= 50, repeated
