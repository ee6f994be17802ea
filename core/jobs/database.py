"""The database: one synchronous engine a process, made after fork, and the only place that commits."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, create_engine, make_url
from sqlalchemy.orm import Session

from core.jobs.dialect import connect_args, prepare_engine

MIGRATIONS = Path(__file__).resolve().parents[2] / "migrations"


class Database:
    """Opens transactions. Safe to share between threads; never across a fork."""

    def __init__(self, url: str, *, pool_size: int = 10) -> None:
        url = normalise_url(url)
        if url.startswith("sqlite:///"):
            Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        self.url = url
        self.engine: Engine = create_engine(
            url,
            pool_pre_ping=True,
            pool_size=pool_size,
            max_overflow=pool_size,
            pool_timeout=5,
            pool_recycle=1800,
            connect_args=connect_args(url),
        )
        prepare_engine(self.engine)
        self._read_engine = self.engine.execution_options(read_only=True)

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """All or nothing. Keep it short: no I/O but the database's inside."""
        with Session(self.engine, expire_on_commit=False) as session:
            yield session
            session.commit()

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A consistent look that takes no write lock; what is changed in it is thrown away."""
        with Session(self._read_engine, expire_on_commit=False) as session:
            yield session

    def close(self) -> None:
        self.engine.dispose()


def normalise_url(url: str) -> str:
    """`postgres://` and `postgresql://` mean psycopg 3 here."""
    scheme, separator, rest = url.partition("://")
    return f"postgresql+psycopg://{rest}" if separator and scheme in ("postgres", "postgresql") else url


def alembic_config(url: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["url"] = normalise_url(url)
    return config


def migrate(url: str) -> None:
    """Bring the schema to the newest revision. Safe to run from several processes at once."""
    if make_url(normalise_url(url)).get_backend_name() == "sqlite":
        Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    command.upgrade(alembic_config(url), "head")


def schema_is_current(database: Database) -> bool:
    """True when the database stands at the revision this code was written for."""
    head = ScriptDirectory.from_config(alembic_config(database.url)).get_current_head()
    with database.engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision() == head
