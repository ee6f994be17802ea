"""The SQL that differs between PostgreSQL and SQLite, all of it."""

from typing import Any

from sqlalchemy import Boolean, Connection, Engine, Float, event
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement


class now(FunctionElement[float]):
    """The database's clock, seconds since the epoch (UTC). Leases are compared with this clock and no other."""

    type = Float()
    inherit_cache = True


@compiles(now, "postgresql")
def _now_postgresql(element: now, compiler: Any, **kw: Any) -> str:
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS DOUBLE PRECISION)"


@compiles(now, "sqlite")
def _now_sqlite(element: now, compiler: Any, **kw: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


class needs_gpu(FunctionElement[bool]):
    """Whether the spec in this JSON column asks for a GPU by number (`resources.gpus` of 1, not `auto`)."""

    type = Boolean()
    inherit_cache = True


@compiles(needs_gpu, "postgresql")
def _needs_gpu_postgresql(element: needs_gpu, compiler: Any, **kw: Any) -> str:
    return f"(COALESCE({compiler.process(element.clauses, **kw)} #>> '{{resources,gpus}}', '') = '1')"


@compiles(needs_gpu, "sqlite")
def _needs_gpu_sqlite(element: needs_gpu, compiler: Any, **kw: Any) -> str:
    return f"(COALESCE(json_extract({compiler.process(element.clauses, **kw)}, '$.resources.gpus'), '') = 1)"


def prepare_engine(engine: Engine) -> None:
    """Make SQLite behave: WAL, wait for locks, foreign keys, and no transaction but the ones we begin."""
    if engine.dialect.name != "sqlite":
        return

    @event.listens_for(engine, "connect")
    def _on_connect(connection: Any, record: Any) -> None:
        connection.isolation_level = None
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=15000", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _on_begin(connection: Any) -> None:
        # Writers take the lock at once: a read that later wants to write would fail instead of waiting.
        read_only = connection.get_execution_options().get("read_only", False)
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")


def connect_args(url: str) -> dict[str, Any]:
    """Bounded waits: nothing here may hang for ever."""
    if url.startswith("sqlite"):
        return {"check_same_thread": False, "timeout": 15}
    return {
        "connect_timeout": 5,
        "options": "-c statement_timeout=30000 -c lock_timeout=10000 -c idle_in_transaction_session_timeout=60000",
    }


def lock_for_migration(connection: Connection) -> None:
    """One migration at a time: SQLite's write lock is held already, PostgreSQL needs asking."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7305186)")
