"""Alembic's entry: the metadata of core.jobs.tables, the URL of whoever called (or of the settings, from a shell)."""

from alembic import context
from sqlalchemy import create_engine

from core.jobs import dialect
from core.jobs.database import normalise_url
from core.jobs.tables import Table
from core.settings import settings

config = context.config
url = config.attributes.get("url") or normalise_url(settings().database_url)
engine = create_engine(url, connect_args=dialect.connect_args(url))
dialect.prepare_engine(engine)

try:
    with engine.connect() as connection:
        context.configure(
            connection=connection,
            target_metadata=Table.metadata,
            render_as_batch=True,
            transactional_ddl=True,
            compare_type=True,
        )
        with context.begin_transaction():
            dialect.lock_for_migration(connection)
            context.run_migrations()
finally:
    engine.dispose()
