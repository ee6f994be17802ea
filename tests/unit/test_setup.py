"""`make setup`: which torch it takes, what it does without uv, and what it says to an old Python."""

import subprocess
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

CPU = "https://download.pytorch.org/whl/cpu"


@pytest.fixture
def setup() -> ModuleType:
    spec = spec_from_file_location("setup_script", Path(__file__).parents[2] / "scripts" / "setup.py")
    assert spec
    assert spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def commands(setup: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The commands that would have run; those with a word of `setup.FAILING` in them fail."""
    ran: list[str] = []
    setup.FAILING = []

    def run(*command: str, quiet: bool = False) -> bool:
        ran.append(" ".join(command))
        return not any(word in command for word in setup.FAILING)

    monkeypatch.setattr(setup, "run", run)
    monkeypatch.setattr(setup.sys, "platform", "linux")
    return ran


@pytest.mark.parametrize(
    ("configured", "driver", "says", "index"),
    [
        ({"find-links": ["/wheels"]}, False, "configured to look (/wheels)", None),
        ({"extra-index-url": ["https://mirror/simple"]}, True, "configured to look", None),
        ({"trusted-host": ["mirror"]}, False, "no NVIDIA driver", CPU),
        ({}, False, "no NVIDIA driver", CPU),
        ({}, True, "PyPI's default", None),
    ],
)
def test_torch_comes_from_the_right_place_and_setup_says_so_first(
    setup: ModuleType,
    commands: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    configured: dict[str, list[str]],
    driver: bool,
    says: str,
    index: str | None,
) -> None:
    monkeypatch.setattr(setup, "has_nvidia_driver", lambda: driver)
    setup.install_torch(configured)
    assert says in capsys.readouterr().out
    (command,) = commands
    assert command.endswith("--no-deps -c constraints.txt torch")
    assert (f"--index-url {index}" in command) == (index is not None)


def test_pypi_is_the_way_out_when_the_cpu_index_is_unreachable(
    setup: ModuleType, commands: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup, "has_nvidia_driver", lambda: False)
    setup.FAILING = [CPU]
    setup.install_torch({})
    assert [CPU in command for command in commands] == [True, False]


def test_uv_looks_where_pip_is_configured_to_look(setup: ModuleType, commands: list[str]) -> None:
    assert setup.install_with_uv({"index-url": ["https://a"], "extra-index-url": ["https://b", "https://c"]})
    assert "--index-url https://a --extra-index-url https://b --extra-index-url https://c" in commands[-1]


def test_pip_does_it_when_uv_cannot_be_had(
    setup: ModuleType, commands: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(setup, "READY", tmp_path / ".ready")
    monkeypatch.setattr(setup, "pip_configuration", dict)
    setup.FAILING = ["uv"]
    setup.main()
    assert commands[-1].endswith(f"install -c constraints.txt -e {setup.EXTRAS}")
    assert setup.READY.read_text() == setup.digest()


def test_pip_configuration_is_read_from_files_and_variables(setup: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    listing = ":env:.find-links='/wheels'\nglobal.index-url='https://a'\nglobal.timeout='9'\n"
    listing += "install.extra-index-url='\\nhttps://b\\nhttps://c'\nfreeze.find-links='/no'\n"
    answer: Callable[..., str] = lambda *_, **__: listing  # noqa: E731
    monkeypatch.setattr(subprocess, "check_output", answer)
    assert setup.pip_configuration() == {
        "find-links": ["/wheels"],
        "index-url": ["https://a"],
        "extra-index-url": ["https://b", "https://c"],
    }


def test_an_old_python_hands_over_to_a_newer_one_or_says_what_to_install(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    class HandedOver(Exception):
        pass

    def hand_over(name: str, _arguments: list[str]) -> None:
        raise HandedOver(name)

    monkeypatch.setattr(setup.sys, "version_info", (3, 9, 2))
    monkeypatch.setattr(setup.os, "execvp", hand_over)
    monkeypatch.setattr(setup.shutil, "which", lambda name: name == "python3.12" or None)
    with pytest.raises(HandedOver, match=r"python3\.12"):
        setup.use_new_enough_python()
    monkeypatch.setattr(setup.shutil, "which", lambda _name: None)
    with pytest.raises(SystemExit, match=r"needs Python 3\.11 or newer; .* is 3\.9"):
        setup.use_new_enough_python()
