"""Celery's client before the worker: every option of apply_async, and results of every state."""

import pytest
from celery.exceptions import TaskRevokedError


def test_a_task_gives_its_result(lab):
    assert lab.add.delay(2, 3).get(timeout=10) == 5


def test_positional_and_keyword_arguments_arrive(lab):
    assert lab.echo.apply_async((1, "two", [3.5, None]), {"k": {"v": True}}).get(timeout=10) == {"args": [1, "two", [3.5, None]], "kwargs": {"k": {"v": True}}}


def test_an_error_is_rebuilt_with_its_type_and_arguments(lab):
    result = lab.fail.delay("oh")
    with pytest.raises(ValueError) as caught:
        result.get(timeout=10)
    assert caught.value.args == ("oh", 42)
    assert result.state == "FAILURE"


def test_what_expired_is_revoked(lab):
    result = lab.add.apply_async((1, 1), expires=-1)
    with pytest.raises(TaskRevokedError):
        result.get(timeout=10)
