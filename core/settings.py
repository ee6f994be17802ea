"""Settings: the only place that reads environment variables. Everything has a default that suits one machine.

`DATABASE_URL`, `REDIS_URL` and `STORAGE_URL` have their usual names; the others are the field's name in capitals behind
`WEIGHTSMITH_` (`WEIGHTSMITH_HOME`, `WEIGHTSMITH_LEASE_SECONDS`, …). Lists are separated by `:` like PATH.
"""

import os
from functools import cache
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

_PLAIN_NAMES = ("database_url", "redis_url", "storage_url")


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    home: Path = Path(".weightsmith")
    """All state of the embedded stack lies below it."""
    database_url: str = ""
    """default: SQLite below `home`"""
    redis_url: str = "redis://127.0.0.1:6379/0"
    """`redis://` or `redis+socket://`"""
    storage_url: str = ""
    """`file:///folder` (default: below `home`) or `s3://bucket/prefix`"""
    scratch: Path | None = None
    """Run directories of this machine; local disk. Default: below `home`."""

    lease_seconds: float = Field(default=30.0, gt=0)
    """How long a silent worker keeps its job. Renewed six times as often."""
    poll_seconds: float = Field(default=1.0, gt=0)
    """How often a supervisor records events and reads what the user wants."""
    reap_seconds: float = Field(default=5.0, gt=0)
    """How often each process looks for expired leases and unsent hints."""
    rehint_seconds: float = Field(default=30.0, gt=0)
    """After this long a queued job's hint is sent again."""
    retry_base_seconds: float = Field(default=10.0, gt=0)
    """First backoff of a retry without progress; doubles up to six minutes."""
    step_timeout_seconds: float = Field(default=1800.0, gt=0)
    """A child that reports nothing for this long is taken for hung."""
    drain_seconds: float = Field(default=60.0, gt=0)
    """What a child gets to save its work after SIGTERM."""
    max_offline_seconds: float = Field(default=1800.0, gt=0)
    """How long training goes on while the database is away."""
    delete_grace_seconds: float = Field(default=600.0, ge=0)
    """Bytes of deleted things go after this long."""
    max_attempts: int = Field(default=100, ge=1)
    """of a job, whatever ended the others"""

    slots: int = Field(default=1, ge=1)
    """Runs that this machine trains at once (CPU shares; with GPUs: one slot each)."""
    slot_threads: int = Field(default=0, ge=0)
    """Threads of a CPU slot; 0: the machine's cores divided by the slots."""
    slot_memory_bytes: int = Field(default=0, ge=0)
    """Memory of a CPU slot; 0: 60 % of the machine's memory divided by the slots."""
    warm_spare: bool = True
    """Keep one process that has already imported torch."""
    tensorboard_folder: Path | None = None
    """Runs' series are also written below it, as TensorBoard event files. Local disk."""
    child_user: str | None = None
    """Children run as this user where the worker is root."""

    generator_host: str = "127.0.0.1"
    """where it listens, and where the api finds it"""
    generator_port: int = 0
    """0: any free port; the api finds it by the heartbeat row"""
    generator_token: str = ""
    """shared by api and generator; `weightsmith up` makes one"""
    generator_threads: int = Field(default=1, ge=1)
    """that compute"""
    generator_memory_bytes: int = Field(default=4 << 30, ge=1)
    """weights and caches that stay resident"""
    generator_max_waiting: int = Field(default=64, ge=1)
    """answers that may wait for a slot; further requests get a 429"""
    generator_write_timeout_seconds: float = Field(default=30.0, gt=0)
    """A reader who takes nothing for this long is taken for gone."""

    allowed_hosts: list[str] = ["127.0.0.1", "localhost", "[::1]", "testserver"]
    """Host headers that the api answers."""
    import_folders: list[Path] = []
    """Folders from which files and models may be imported."""
    max_post_bytes: int = 512 << 20
    """of a file that is sent at once"""
    max_upload_bytes: int = 8 << 30
    """of a file that is sent in parts"""
    max_body_bytes: int = 4 << 20
    """of a JSON request"""
    min_free_bytes: int = 1 << 30
    """Uploads are refused when storage would be left with less."""
    log_level: str = "info"
    """debug, info, warning or error"""

    @model_validator(mode="after")
    def _below_home(self) -> Self:
        home = self.home.resolve()
        object.__setattr__(self, "home", home)
        if self.tensorboard_folder is not None:  # children run elsewhere: what is relative is relative to here
            object.__setattr__(self, "tensorboard_folder", self.tensorboard_folder.resolve())
        object.__setattr__(self, "database_url", self.database_url or f"sqlite:///{home / 'weightsmith.db'}")
        object.__setattr__(self, "storage_url", self.storage_url or f"file://{home / 'storage'}")
        object.__setattr__(self, "scratch", (self.scratch or home / "scratch").resolve())
        return self

    @property
    def scratch_dir(self) -> Path:
        assert self.scratch is not None
        return self.scratch

    def environment(self) -> dict[str, str]:
        """The variables that give a child process these settings."""
        given = self.model_dump(mode="json", exclude_unset=True) | {
            "home": str(self.home),
            "database_url": self.database_url,
            "storage_url": self.storage_url,
        }
        return {variable(name): _as_text(value) for name, value in given.items() if value is not None}

    def child_environment(self) -> dict[str, str]:
        """This process's environment with these settings in it."""
        return dict(os.environ) | self.environment()


def variable(field: str) -> str:
    """The name of the environment variable that sets a field."""
    return field.upper() if field in _PLAIN_NAMES else f"WEIGHTSMITH_{field.upper()}"


def _as_text(value: Any) -> str:
    return ":".join(map(str, value)) if isinstance(value, list) else str(value)


@cache
def settings() -> Settings:
    """This process's settings, read once.

    Raises:
        SystemExit: a variable has a value that cannot be used; the message names it.
    """
    values: dict[str, Any] = {}
    for name, field in Settings.model_fields.items():
        text = os.environ.get(variable(name))
        if text is not None and text != "":
            values[name] = text.split(":") if "list" in str(field.annotation) else text
    try:
        return Settings(**values)
    except ValidationError as error:
        faults = "; ".join(f"{variable(str(e['loc'][0]))}: {e['msg']}" for e in error.errors())
        raise SystemExit(f"weightsmith: bad settings: {faults}") from None


def client_environment() -> dict[str, str]:
    """What variables tell the command line: some of `base_url`, `api_key`, `home`, `openai_base_url`,
    `openai_api_key` and `config_home`."""
    names = {name: variable(name) for name in ("base_url", "api_key", "home")}
    names |= {"openai_base_url": "OPENAI_BASE_URL", "openai_api_key": "OPENAI_API_KEY"}
    names |= {"config_home": "XDG_CONFIG_HOME"}
    return {name: value for name, place in names.items() if (value := os.environ.get(place))}


def machine_environment() -> dict[str, str]:
    """What a child process needs to know of this machine: where programs and libraries lie. No secrets."""
    names = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ", "CUDA_HOME", "VIRTUAL_ENV")
    return {name: value for name in names if (value := os.environ.get(name))}


def ask_for_steady_products() -> None:
    """Have Intel's MKL round a row's fp32 product alike in a batch of any size; to be said before the first product.

    Elsewhere this is so from a few rows on without being asked; how many is measured (core/generation/rounding.py).
    """
    os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
