"""`python -m worker.generator`: the process that serves models. It listens on a loopback or private address, is found
by its heartbeat row, and ends on SIGTERM after finishing the answers it has begun."""

import asyncio
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

import torch
import uvicorn
from sqlalchemy.exc import SQLAlchemyError

from core import logs
from core.generation_request import Error
from core.jobs import workers
from core.jobs.database import Database
from core.jobs.ids import new_id
from core.settings import Settings, ask_for_steady_products, settings
from core.storage import open_storage
from worker.generator.exports import Exports
from worker.generator.loop import AnyEngine, EngineLoop
from worker.generator.residents import Residents
from worker.generator.server import Server

_log = logging.getLogger("worker.generator")
BEAT_SECONDS = 3.0
CUT_SECONDS = 2.0
"""between the error line that ends what was not finished and the end of the process"""


class Generator:
    """Everything that lives in this process."""

    def __init__(self, config: Settings) -> None:
        self.config = config
        self.id = new_id("gen_")
        self.database = Database(config.database_url, pool_size=2)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.residents = Residents(
            open_storage(config.storage_url), memory_bytes=config.generator_memory_bytes, device=device
        )
        self.loop = EngineLoop(max_waiting=config.generator_max_waiting, on_poisoned=self._reload)
        self.server = Server(
            self.residents,
            self.loop,
            exports=Exports(self.residents, config.scratch_dir),
            token=config.generator_token,
            max_body_bytes=config.max_body_bytes,
            write_timeout_seconds=config.generator_write_timeout_seconds,
        )
        self.ending = asyncio.Event()

    async def serve(self) -> None:
        """Until SIGTERM or Ctrl-C, and then until the last answer is finished or the drain is over."""
        self._asyncio = asyncio.get_running_loop()
        listener = _listener(self.config.generator_host, self.config.generator_port)
        self.address = f"http://{_in_url(self.config.generator_host)}:{listener.getsockname()[1]}"
        web = _Web(
            uvicorn.Config(
                self.server,
                log_config=None,
                access_log=False,
                lifespan="off",
                server_header=False,
                timeout_graceful_shutdown=int(self.config.drain_seconds + CUT_SECONDS) + 1,
            )
        )
        for sig in (signal.SIGTERM, signal.SIGINT):
            self._asyncio.add_signal_handler(sig, self.ending.set)
        self.loop.start()
        serving = asyncio.create_task(web.serve(sockets=[listener]))
        beating = asyncio.create_task(self._beat())
        _log.info("listening on %s", self.address)
        await asyncio.wait({serving, asyncio.create_task(self.ending.wait())}, return_when=asyncio.FIRST_COMPLETED)
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)
        await asyncio.to_thread(self._leave)
        cutting = asyncio.create_task(self._cut())
        web.should_exit = True
        await serving
        cutting.cancel()
        self.loop.stop()
        self.residents.close()
        self.database.close()

    async def _cut(self) -> None:
        await asyncio.sleep(self.config.drain_seconds)
        self.loop.end_all(Error(code="unavailable", message="The generator is shutting down; send the request again."))

    async def _beat(self) -> None:
        """Say where we are and what is loaded. One that does not move falls silent, and no one is sent to it."""
        while True:
            if self.server.is_healthy:
                await asyncio.to_thread(self._write_row)
            await asyncio.sleep(BEAT_SECONDS)

    def _write_row(self) -> None:
        try:
            with self.database.transaction() as session:
                workers.beat(
                    session,
                    self.id,
                    kind="generator",
                    host=socket.gethostname(),
                    pid=os.getpid(),
                    version=version("weightsmith"),
                    address=self.address,
                    models=self.residents.storage_keys,
                )
        except SQLAlchemyError as error:
            _log.warning("no heartbeat: the database does not answer: %s", error)

    def _leave(self) -> None:
        try:
            with self.database.transaction() as session:
                workers.leave(session, self.id)
        except SQLAlchemyError as error:
            _log.warning("the heartbeat row stays: %s", error)

    def _reload(self, engine: AnyEngine) -> None:
        """Called by the computing thread."""
        self._asyncio.call_soon_threadsafe(self.residents.discard, engine)


class _Web(uvicorn.Server):
    """uvicorn without its signal handlers: ours end the heartbeat first."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    return listener


def _in_url(host: str) -> str:
    """A name by which others reach a host that we listen on."""
    if host in ("0.0.0.0", "::"):
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host


def _die_with_the_engine(crash: threading.ExceptHookArgs) -> None:
    """A process that cannot compute is of no use; whoever started it starts it again."""
    _log.critical("a thread ended", exc_info=crash.exc_value)
    os._exit(1)


def main() -> None:
    config = settings()
    logs.own_process(config.log_level)
    if not config.generator_token:
        sys.exit("WEIGHTSMITH_GENERATOR_TOKEN is not set: give api and generator the same secret")
    threading.excepthook = _die_with_the_engine
    ask_for_steady_products()
    torch.set_num_threads(config.generator_threads)
    torch.set_num_interop_threads(1)

    async def run() -> None:
        await Generator(config).serve()

    asyncio.run(run())


if __name__ == "__main__":
    main()
