"""Spans over OTLP: our workers' and command line's in one trace with those of OpenTelemetry's instrumentation of Celery."""

import http.server
import os
import sys
import threading

import pytest
from celery import chain

from conftest import CAN
from lab import HERE, LABAPP
from procs import Process, eventually

pytestmark = [
    pytest.mark.ours,
    pytest.mark.limit(90),
    pytest.mark.skipif("otel" not in CAN, reason="spans: built without the feature otel"),
]
trace_service = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2", reason="opentelemetry-proto is missing")


class Collector:
    """Takes spans over OTLP (http/protobuf) and keeps them."""

    def __init__(self):
        collector, self.spans = self, []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                request = trace_service.ExportTraceServiceRequest()
                body = self.rfile.read(int(self.headers["content-length"]))
                request.ParseFromString(body)
                for resource in request.resource_spans:
                    service = {each.key: each.value.string_value for each in resource.resource.attributes}.get("service.name")
                    collector.spans += [(service, span) for scope in resource.scope_spans for span in scope.spans]
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.env = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self.server.server_port}",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_BSP_SCHEDULE_DELAY": "50",
        }

    def named(self, service, name):
        """The spans of this service and name."""
        return [span for owner, span in list(self.spans) if (owner, span.name) == (service, name)]

    def one(self, service, name):
        found = eventually(lambda: self.named(service, name), 20)
        assert found and len(found) == 1, [(owner, span.name) for owner, span in self.spans]
        return found[0]


@pytest.fixture
def collector():
    collector = Collector()
    yield collector
    collector.server.shutdown()
    collector.server.server_close()


# A program of Celery's with OpenTelemetry's instrumentation, as its documentation has it: a worker, or with `send` a client.
TRACED = """
import os, sys
from celery.signals import worker_process_init
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor


def instrument(**_):
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    CeleryInstrumentor().instrument()


worker_process_init.connect(instrument, weak=False)
from labapp import *
"""

SEND = """
import tracedapp
tracedapp.instrument()
from celery import chain
app = tracedapp.app
add = app.tasks["lab.add"]
first = add.si(1, 2).set(queue="ours")
second = add.si(3, 4).set(queue="theirs")
third = add.si(5, 6).set(queue="ours")
print(chain(first, second, third).delay().get(timeout=20))
"""


def test_a_chain_of_celerys_client_through_both_kinds_of_workers_is_one_trace(own_lab, collector):
    lab = own_lab
    (lab.folder / "tracedapp.py").write_text(TRACED)
    (lab.folder / "send.py").write_text(SEND)
    lab.worker("longshore", queues="ours", env={**collector.env, "OTEL_SERVICE_NAME": "rust"})
    path = os.pathsep.join([str(lab.folder), str(HERE)])
    env = {**collector.env, **lab.env(), "PYTHONPATH": path}
    argv = [sys.executable, "-m", "celery", "-A", "tracedapp", "worker", "-l", "info", "-n", "traced@lab", "-Q", "theirs", "-c", "1", "--without-mingle"]
    worker = Process(argv, lab.folder / "traced.log", env={**env, "OTEL_SERVICE_NAME": "python"}, cwd=HERE)
    worker.wait_for(r"\bready\.", 30)
    sender = Process([sys.executable, lab.folder / "send.py"], lab.folder / "send.log", env={**env, "OTEL_SERVICE_NAME": "client"}, cwd=HERE)
    assert sender.wait(40) == 0, sender.text()
    assert sender.text().split()[-1] == "11"

    sent = collector.one("client", "apply_async/lab.add")
    theirs = collector.one("python", "run/lab.add")
    sent_back = collector.one("python", "apply_async/lab.add")
    ours = eventually(lambda: len(collector.named("rust", "run lab.add")) == 2 and collector.named("rust", "run lab.add"), 20)
    first, third = sorted(ours, key=lambda span: span.start_time_unix_nano)
    ours_sent = collector.one("rust", "send lab.add")
    links = [(first, sent), (ours_sent, first), (theirs, ours_sent), (sent_back, theirs), (third, sent_back)]
    assert [child.parent_span_id == parent.span_id for child, parent in links] == [True] * 5
    assert {span.trace_id for _, span in collector.spans} == {sent.trace_id}
    worker.stop()


def test_the_command_line_sends_within_the_trace_of_its_environment_and_tells_its_span_before_it_ends(own_lab, collector):
    lab = own_lab
    worker = lab.worker("longshore", env={**collector.env, "OTEL_BSP_SCHEDULE_DELAY": "60000", "OTEL_SERVICE_NAME": "worker"})
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    env = {**collector.env, "OTEL_BSP_SCHEDULE_DELAY": "60000", "OTEL_SERVICE_NAME": "caller", "TRACEPARENT": trace}
    argv = [LABAPP, "call", "lab.add", "-a", "[1, 2]", "--wait", "--broker", lab.broker_url, "--results", lab.results_url]
    call = Process(argv, lab.folder / "call.log", env=env, cwd=HERE)
    assert call.wait(20) == 0 and call.text().strip() == "3"
    # Whoever ends tells what is left, however long a batch would have been gathered.
    (sent,) = collector.named("caller", "send lab.add")
    assert (sent.trace_id.hex(), sent.parent_span_id.hex()) == ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")
    assert not collector.named("worker", "run lab.add")
    worker.stop()
    (run,) = collector.named("worker", "run lab.add")
    assert run.parent_span_id == sent.span_id
