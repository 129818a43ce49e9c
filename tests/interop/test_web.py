"""Our page's door for programs: its description before a checker of another hand."""

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from dashboard import Dashboard
from procs import eventually

pytestmark = [pytest.mark.ours, pytest.mark.limit(60)]


@pytest.fixture
def dashboard(own_lab):
    dashboard = Dashboard(own_lab)
    yield dashboard
    dashboard.stop()


def test_the_document_is_openapi_as_its_checker_reads_it(dashboard):
    status, document = dashboard.ask("/api/v1/openapi.json")
    assert status == 200 and document["openapi"] == "3.1.0"
    assert [str(error) for error in OpenAPIV31SpecValidator(document).iter_errors()] == []
    # The checker does see what is wrong.
    del document["info"]["title"]
    assert list(OpenAPIV31SpecValidator(document).iter_errors())


def ends_again(result, before):
    """Waits until a task has come to another end than the one before."""
    assert eventually(lambda: result.state == "FAILURE" and result.date_done not in (None, before), 20, 0.1), result.info


def test_each_failed_task_is_sent_again_and_runs_at_the_worker_that_serves_its_queue(own_lab, dashboard):
    """Ours by its stored message, Python's from its result document, which has the arguments with `result_extended`."""
    lab = own_lab
    python = lab.worker("python", conf={"result_extended": True})
    ours = lab.worker("longshore", queues="ours")
    failed = {python.node: lab.fail.delay("oh"), ours.node: lab.fail.apply_async(("oh",), queue="ours")}
    for worker, result in failed.items():
        assert result.get(timeout=20, propagate=False)
        before = result.date_done
        status, done = dashboard.ask(f"/api/v1/tasks/{result.id}/retry", {})
        assert status == 200 and done["count"] == 1, done
        ends_again(lab.app.AsyncResult(result.id), before)
        status, detail = dashboard.ask(f"/api/v1/tasks/{result.id}/detail")
        assert status == 200 and (detail["state"], detail["stored"]["result"]["exc_message"]) == ("failure", ["oh", 42]), detail
    for worker, (own, other) in {python: (python.node, ours.node), ours: (ours.node, python.node)}.items():
        text = worker.text()
        assert failed[own].id in text and failed[other].id not in text, text


def test_a_python_task_whose_arguments_nobody_kept_says_what_to_switch_on(own_lab, dashboard):
    own_lab.worker("python")
    failed = own_lab.fail.delay("oh")
    assert failed.get(timeout=20, propagate=False)
    status, refusal = dashboard.ask(f"/api/v1/tasks/{failed.id}/retry", {})
    assert status == 422 and "result_extended = True" in refusal["error"]["message"], refusal
