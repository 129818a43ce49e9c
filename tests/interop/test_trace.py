"""W3C's trace context in messages: between Celery's clients and workers, and ours."""

import pytest
from celery import chain, chord, group

TRACE = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "vendor=1"}


def place(headers):
    return {name: (headers or {}).get(name) for name in TRACE}


@pytest.mark.compared
def test_a_task_and_its_retries_find_the_trace_that_celerys_client_named(lab):
    assert place(lab.request.apply_async(headers=TRACE).get(timeout=10)["headers"]) == TRACE
    assert place(lab.flaky_request.apply_async((2,), headers=TRACE).get(timeout=10)["headers"]) == TRACE
    assert place(lab.request.delay().get(timeout=10)["headers"]) == dict.fromkeys(TRACE)


@pytest.mark.ours
def test_what_follows_a_task_belongs_to_its_trace(lab):
    within = lab.add.si(1, 2).set(headers=TRACE)
    assert place(chain(within, lab.add.si(3, 4), lab.request.si()).delay().get(timeout=10)["headers"]) == TRACE
    assert place(chord([within, within])(lab.request.si()).get(timeout=10)["headers"]) == TRACE
    members = chain(within, group(lab.request.si(), lab.request.si())).delay().get(timeout=10)
    assert [place(member["headers"]) for member in members] == [TRACE, TRACE]
    # Another trace that was named is not this one.
    other = {"traceparent": TRACE["traceparent"].replace("b7ad", "aaaa")}
    followed = chain(within, lab.request.si().set(headers=other)).delay().get(timeout=10)
    assert place(followed["headers"]) == {"traceparent": other["traceparent"], "tracestate": None}
    assert place(chain(lab.add.si(1, 2), lab.request.si()).delay().get(timeout=10)["headers"]) == dict.fromkeys(TRACE)


@pytest.mark.ours
def test_a_worker_of_celerys_finds_the_trace_that_ours_sends_on(own_lab):
    lab = own_lab
    lab.worker("longshore", queues="ours")
    lab.worker("python", queues="theirs")
    theirs = lab.request.si().set(queue="theirs")
    first = lab.add.si(1, 2).set(headers=TRACE, queue="ours")
    assert place(chain(first, theirs).delay().get(timeout=15)["headers"]) == TRACE
