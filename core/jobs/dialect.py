"""The SQL that differs between PostgreSQL and SQLite, all of it."""

from typing import Any

from sqlalchemy import Boolean, Connection, Engine, Float, event, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase, Session
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


def clock(session: Session) -> float:
    """What time it is, by the database."""
    return float(session.scalar(select(now())) or 0.0)


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


class has_pair(FunctionElement[bool]):
    """`has_pair(column, key, value)`: whether the flat JSON object in the column says exactly this."""

    type = Boolean()
    inherit_cache = True


@compiles(has_pair, "postgresql")
def _has_pair_postgresql(element: has_pair, compiler: Any, **kw: Any) -> str:
    column, key, value = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"({column} ->> CAST({key} AS TEXT) = {value})"


@compiles(has_pair, "sqlite")
def _has_pair_sqlite(element: has_pair, compiler: Any, **kw: Any) -> str:
    column, key, value = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"EXISTS (SELECT 1 FROM json_each({column}) WHERE key = {key} AND value = {value})"


def insert_unless_there(session: Session, row: DeclarativeBase) -> bool:
    """Insert a row; False when its primary key is taken. On PostgreSQL this waits for whoever is about to take it."""
    table = type(row).__table__
    insert = (postgresql if session.get_bind().dialect.name == "postgresql" else sqlite).insert
    values = {column.name: getattr(row, column.key) for column in table.columns}
    given = {name: value for name, value in values.items() if value is not None}
    done = session.execute(insert(table).values(**given).on_conflict_do_nothing().returning(*table.primary_key))
    return done.first() is not None


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
