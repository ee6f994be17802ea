"""The schema: up, down and up again on both databases, equal to the tables, and refused when it is another one."""

import subprocess
import sys
from pathlib import Path

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import inspect

from core.jobs import database as databases
from core.jobs.database import Database
from core.jobs.tables import Table

ROOT = Path(__file__).resolve().parents[2]


def tables(url: str) -> set[str]:
    database = Database(url)
    names = set(inspect(database.engine).get_table_names()) - {"alembic_version"}
    database.close()
    return names


def is_current(url: str) -> bool:
    database = Database(url)
    current = databases.schema_is_current(database)
    database.close()
    return current


def test_up_down_and_up_again(empty_database_url: str) -> None:
    config = databases.alembic_config(empty_database_url)
    assert not is_current(empty_database_url)
    databases.migrate(empty_database_url)
    assert tables(empty_database_url) == set(Table.metadata.tables)
    assert is_current(empty_database_url)
    command.check(config)  # the tables of the code and those of the migrations are the same
    command.downgrade(config, "base")
    assert tables(empty_database_url) == set()
    databases.migrate(empty_database_url)
    assert is_current(empty_database_url)


def test_a_difference_would_be_seen(database_url: str) -> None:
    database = Database(database_url)
    with database.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE jobs ADD COLUMN surprise TEXT")
    database.close()
    with pytest.raises(CommandError, match="surprise"):
        command.check(databases.alembic_config(database_url))


def test_several_processes_may_migrate_at_once(empty_database_url: str) -> None:
    program = "import sys; from core.jobs import database; database.migrate(sys.argv[1])"
    command_line = [sys.executable, "-c", program, empty_database_url]
    processes = [subprocess.Popen(command_line, cwd=ROOT, stderr=subprocess.DEVNULL) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert is_current(empty_database_url)


def test_there_is_one_line_of_revisions(database_url: str) -> None:
    script = ScriptDirectory.from_config(databases.alembic_config(database_url))
    assert len(script.get_heads()) == 1
