"""Queues with arguments and exchanges of their own: whichever of Celery and us comes first, the other finds what it would have made."""

import re

import pytest

from lab import RabbitLab
from procs import eventually
from test_rabbit_move import arguments

pytestmark = [pytest.mark.amqp, pytest.mark.ours]

QUEUES = {
    "orders": {
        "exchange": "shop", "exchange_type": "topic", "routing_key": "order.#", "max_priority": 7,
        "queue_arguments": {"x-message-ttl": 600_000, "x-max-length": 1000, "x-dead-letter-exchange": "graves"},
    },
    "safe": {"exchange": "vault", "exchange_type": "topic", "routing_key": "safe.*", "queue_arguments": {"x-queue-type": "quorum"}},
    "news": {"exchange": "news", "exchange_type": "fanout", "routing_key": "news"},
}
CONFIG = """
[queues.orders]
exchange = "shop"
exchange_type = "topic"
routing_key = "order.#"
max_priority = 7
arguments = { x-message-ttl = 600000, x-max-length = 1000, x-dead-letter-exchange = "graves" }
[queues.safe]
type = "quorum"
exchange = "vault"
exchange_type = "topic"
routing_key = "safe.*"
[queues.news]
exchange = "news"
exchange_type = "fanout"
"""
MADE = {
    "orders": {"x-max-priority": 7, "x-message-ttl": 600_000, "x-max-length": 1000, "x-dead-letter-exchange": "graves"},
    "safe": {"x-queue-type": "quorum"},
    "news": {},
}
WAYS = [("shop", "topic", "order.new"), ("shop", "topic", "order.old.paid"), ("vault", "topic", "safe.one"), ("news", "fanout", "")]



def made(lab):
    """The queues of the configuration, with what they were made with."""
    return {name: asked for name, asked in arguments(lab).items() if name in QUEUES}


def led(lab):
    """The exchanges that Celery's delay queues lead to."""
    ends = lab.rabbit.eval(f"""[E || {{binding, {{resource, _, exchange, <<"celery_delayed_delivery">>}}, _, {{resource, _, exchange, E}}, _}} <- rabbit_binding:list(<<"{lab.vhost}">>)].""")
    return set(re.findall(r'<<"([^"]+)">>', ends))


@pytest.mark.limit(90)
@pytest.mark.parametrize("kinds", [("python", "longshore"), ("longshore", "python"), ("longshore",)], ids=["celery first", "ours first", "ours alone"])
def test_queues_of_their_own_are_made_alike_and_their_exchanges_lead_to_them(rabbit, server, tmp_path, kinds):
    conf = {"task_queues": QUEUES, "worker_detect_quorum_queues": True}
    lab = RabbitLab(rabbit, server, 251, tmp_path / "lab", "python", conf=conf).use()
    try:
        for kind in kinds:
            lab.worker(kind, queues=",".join(QUEUES), **({"config": CONFIG} if kind == "longshore" else {"flags": ["--without-gossip"]}))
            assert eventually(lambda: made(lab) == MADE, 10), (kind, made(lab))
        # They are made while the worker serves already.
        assert eventually(lambda: led(lab) == {"shop", "vault", "news"}, 20), led(lab)
        path = lab.path()
        sent = [
            lab.app.send_task("lab.marked", [path, f"{n}-{later}"], exchange=exchange, exchange_type=kind, routing_key=key, countdown=later or None)
            for n, (exchange, kind, key) in enumerate(WAYS)
            for later in (0, 2)
        ]
        # What has a queue and an ETA goes by way of Celery's delay queues, with the bits of its delay before its key.
        for queue, key in (("safe", "safe.one"), ("orders", "order.late")):
            sent.append(lab.app.send_task("lab.marked", [path, f"native-{queue}"], queue=queue, routing_key=key, countdown=2))
        # What goes on goes through them, too, whoever sends it on.
        for n, (exchange, kind, key) in enumerate(WAYS * 4):
            link = lab.app.signature("lab.marked", [path, f"link-{n}"], immutable=True)
            link.options.update(exchange=exchange, exchange_type=kind, routing_key=key)
            lab.app.send_task("lab.marked", [path, f"first-{n}"], queue="orders", link=link)
        expected = {f"{n}-{later}" for n in range(len(WAYS)) for later in (0, 2)}
        expected |= {"native-safe", "native-orders"} | {f"{what}-{n}" for what in ("first", "link") for n in range(len(WAYS) * 4)}
        assert eventually(lambda: set(lab.starts(path)) == expected, 20), expected ^ set(lab.starts(path))
        assert [each.get(timeout=20) for each in sent] and set(lab.starts(path).values()) == {1}, lab.starts(path)
        for worker in lab.workers:
            assert worker.alive() and not any(word in worker.text() for word in ("PRECONDITION", "as it is")), worker.text()
        assert made(lab) == MADE
    finally:
        lab.close()
