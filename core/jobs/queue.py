"""The broker, and the only place that names it.

A message is a hint ("look at the queue"): it may be lost, doubled, late or reordered without changing any outcome,
because the claim decides (core.jobs.store).
"""

import logging
from typing import Any

from celery import Celery
from kombu.entity import Queue
from kombu.exceptions import OperationalError
from kombu.transport import TRANSPORT_ALIASES, redis

from core.jobs.store import LIGHT, TRAIN

log = logging.getLogger(__name__)
WORK = "weightsmith.work"


class Channel(redis.Channel):
    """kombu's, but for one thing: bytes in a queue that are no message do not end the worker. They are dropped."""

    def _brpop_read(self, **options: Any) -> bool:
        try:
            return bool(super()._brpop_read(**options))  # type: ignore[no-untyped-call]
        except (AttributeError, KeyError, TypeError, ValueError):
            log.exception("something that is no message lay in a queue")
            return True


class Transport(redis.Transport):
    """Redis with that channel."""

    Channel = Channel


TRANSPORT_ALIASES.update(dict.fromkeys(("redis", "rediss"), f"{__name__}:Transport"))


def make_celery(redis_url: str) -> Celery:
    """The Celery app with the settings that make a hint cheap and a worker hard to lose."""
    app = Celery("weightsmith", broker=redis_url, backend=None, set_as_current=False)
    app.conf.update(
        task_queues=[Queue(LIGHT), Queue(TRAIN)],  # type: ignore[no-untyped-call]
        task_default_queue=LIGHT,
        task_create_missing_queues=False,
        # Early ack: redelivery would start a long task twice (celery#5935). The lease does that work.
        task_acks_late=False,
        task_reject_on_worker_lost=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
        result_accept_content=["json"],
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_soft_shutdown_timeout=0,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_channel_error_retry=True,
        broker_transport_options={
            "visibility_timeout": 300,
            "socket_timeout": 10,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "health_check_interval": 10,
            "global_keyprefix": "ws:",
        },
    )
    return app


def send_hint(app: Celery, queue: str, job_id: str) -> bool:
    """Tell the workers of `queue` to look. False when the broker is away: the dispatcher sends it again later."""
    try:
        app.send_task(
            WORK,
            args=[job_id],
            queue=queue,
            expires=300,
            ignore_result=True,
            retry=True,
            retry_policy={"max_retries": 1, "interval_start": 0, "interval_max": 0.2},
        )
    except (OperationalError, OSError) as error:
        log.warning("hint for %s not sent: %s", job_id, error)
        return False
    return True
