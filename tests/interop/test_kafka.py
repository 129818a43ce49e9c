"""Kafka: another client's members beside ours in one group."""

import json
import os
import re
import threading
import urllib.error
import urllib.request
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


def ask(address, path):
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read().decode()


def served(process):
    """The address of the page that a program says it serves."""
    found = re.compile(r"page http://([0-9.:]+)")
    assert eventually(lambda: found.search(process.text()), 60), process.text()[-2000:]
    return found.search(process.text()).group(1)


@pytest.mark.limit(240)
def test_groups_of_a_python_client_and_ours_stand_on_the_page_with_their_members_and_lag(tmp_path):
    name = f"paged-{os.getpid()}-{os.urandom(4).hex()}"
    assert Process([LABAPP, "kafka", "create-topic", name, "-b", ADDRESS, "--partitions", "4"], tmp_path / "create").wait(60) == 0
    producer = confluent_kafka.Producer({"bootstrap.servers": ADDRESS})
    for number in range(400):
        producer.produce(name, key=f"k{number}", value=str(number))
    assert producer.flush(30) == 0
    theirs = Member(name, f"{name}-theirs")
    theirs.start()
    home = {"HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "state")}
    flags = ["--max-threads", "2", "--sleep", "2s", "--listen", "127.0.0.1:0"]
    ours = Process([LABAPP, "kafka", "consume", name, "-b", ADDRESS, "--group", f"{name}-ours", *flags], tmp_path / "ours", env=home)
    dashboard = Process([LABAPP, "dashboard", "--broker", "memory://", "--listen", "127.0.0.1:0", "--kafka", ADDRESS], tmp_path / "dashboard", env=home)
    page, site = served(ours), served(dashboard)

    def group(which):
        status, text = ask(site, f"/api/v1/kafka/groups/{name}-{which}")
        return json.loads(text) if status == 200 else {}

    assert eventually(lambda: len(theirs.done) == 400 and group("theirs").get("lag") == 0, 60), group("theirs")
    seen = group("theirs")
    assert seen["state"] == "Stable" and len(seen["partitions"]) == 4
    assert [(member["client"], member["partitions"], member["page"]) for member in seen["members"]] == [("rdkafka", 4, None)]
    assert eventually(lambda: group("ours").get("state") == "Stable" and group("ours")["lag"] > 300, 60), group("ours")
    assert [member["page"] for member in group("ours")["members"]] == [f"http://{page}/"]
    status, text = ask(site, "/kafka")
    assert status == 200 and f"{name}-theirs" in text and f"{name}-ours" in text
    assert json.loads(ask(page, "/api/v1/kafka/consumer")[1])["max_threads"] == 2
    for process in (ours, dashboard):
        process.stop()
    assert eventually(lambda: not os.listdir(tmp_path / "state/longshore/consumers"), 30), "the note of a page goes with it"
    theirs.leave()
