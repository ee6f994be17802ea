"""The servers that other tests lean on: real ones, that stop, crash and come back with their data."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
import redis

from tests.services import Postgres, Valkey, process_exists, scratch, wait_until


def test_postgres_keeps_what_was_committed_through_a_crash(postgres: Postgres) -> None:
    name = postgres.create_database()
    with psycopg.connect(postgres.dsn(name)) as connection:
        connection.execute("CREATE TABLE kept (n int)")
        connection.execute("INSERT INTO kept VALUES (7)")
    with psycopg.connect(postgres.dsn(name)) as connection:
        connection.execute("SELECT 1")
        postgres.restart("immediate")
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    with psycopg.connect(postgres.dsn(name)) as connection:
        assert connection.execute("SELECT n FROM kept").fetchall() == [(7,)]
    postgres.drop_database(name)


def test_postgres_stops_and_the_next_test_finds_it_running(postgres: Postgres) -> None:
    postgres.stop("fast")
    assert not postgres.answers()


def test_a_stopped_postgres_is_started_for_the_next_test(postgres: Postgres) -> None:
    assert postgres.answers()


def test_valkey_with_a_log_keeps_its_keys_through_sigkill() -> None:
    with Valkey(appendonly=True) as server, server.connect() as client:
        client.set("kept", "7")
        client.execute_command("WAITAOF", 1, 0, 1000)
        server.restart()
        assert client.get("kept") == "7"


def test_valkey_answers_on_its_port_and_is_empty_for_each_test(valkey: Valkey) -> None:
    with redis.Redis.from_url(valkey.url) as client:
        assert client.dbsize() == 0
        client.set("left", "behind")


def test_valkey_is_flushed_between_tests(valkey: Valkey) -> None:
    with valkey.connect() as client:
        assert client.dbsize() == 0


def test_servers_die_with_a_test_run_that_is_killed(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = (
        "import sys, time, pathlib\n"
        "from tests.services import Postgres, Valkey\n"
        "with Postgres() as postgres, Valkey() as valkey:\n"
        "    text = f'{postgres.process.pid} {valkey.process.pid}'\n"
        "    part = pathlib.Path(sys.argv[1] + '.part'); part.write_text(text); part.rename(sys.argv[1])\n"
        "    time.sleep(60)\n"
    )
    run = subprocess.Popen([sys.executable, "-c", script, str(pids)], cwd=Path(__file__).parents[2])
    wait_until(pids.exists, what="the servers run")
    run.send_signal(signal.SIGKILL)
    run.wait()
    scratch().rmdir()  # it also sweeps what the killed run could not
    for pid in map(int, pids.read_text().split()):
        wait_until(lambda pid=pid: not process_exists(pid) or is_zombie(pid), what=f"{pid} ends")


def is_zombie(pid: int) -> bool:
    """An orphan waits for init to collect it, which some containers' init never does."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return not os.path.exists(f"/proc/{pid}")


def test_a_new_database_has_the_newest_schema(database_url: str) -> None:
    import sqlalchemy

    engine = sqlalchemy.create_engine(database_url)
    assert {"alembic_version", "jobs"} <= set(sqlalchemy.inspect(engine).get_table_names())
    engine.dispose()
