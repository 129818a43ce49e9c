"""The tests of test_client.py over RabbitMQ, with results in Redis."""

import pytest

from test_client import *  # noqa: F403

pytestmark = [pytest.mark.amqp, pytest.mark.alone]


@pytest.fixture
def lab(rabbit_staffed):
    rabbit_staffed.use().forget_chords()
    yield rabbit_staffed
