"""What code of strangers can do in the sandbox: compute, and nothing else."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from core.graders import sandbox as sandbox_module
from core.graders import sandbox_child
from core.graders.grade import Sample, Ungradable
from core.graders.sandbox import ENVIRONMENT, Sandbox

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has seccomp and Landlock")
ANY = "import os\ndef grade(sample, item):\n    exec(item['code'], globals())\n    return globals().get('score', 0)"
"""what a sample's item says is run by the same child"""


def run(sandbox: Sandbox, code: str, source: str = ANY) -> float:
    return sandbox.run(source, Sample("text"), {"code": code})


def error_of(sandbox: Sandbox, code: str, source: str = ANY) -> str:
    with pytest.raises(Ungradable) as raised:
        run(sandbox, code, source)
    assert raised.value.error.name == "python_grader_runtime_error"
    return raised.value.error.details


@pytest.fixture
def fresh(sandbox: Sandbox) -> Iterator[Sandbox]:
    with Sandbox() as opened:
        yield opened


def test_it_computes(sandbox: Sandbox) -> None:
    assert run(sandbox, "import re, json, numpy as np\nscore = np.float32(0.5) + len(re.findall('a', 'banana'))") == 3.5
    assert run(sandbox, "print('lost'); input_ = open(0, closefd=False).read(); score = len(input_)") == 0.0
    assert run(sandbox, "score = True") == 1.0


@on_linux
@pytest.mark.parametrize(
    "code",
    [
        "import socket; socket.create_connection(('127.0.0.1', 80))",
        "import socket; socket.socket(socket.AF_UNIX).connect('/run/x')",
        "os.fork()",
        "os.system('true') and 1 / 0",
        "import subprocess; subprocess.run(['/bin/true'])",
        "os.execv('/bin/true', ['true'])",
        "import threading; threading.Thread(target=print).start()",
        "os.kill(os.getppid(), 0)",
        "import resource; resource.prlimit(os.getppid(), resource.RLIMIT_CPU)",
        "os.setpriority(os.PRIO_PROCESS, os.getppid(), 10)",
        "open('/etc/passwd').read()",
        "open('/proc/self/environ').read()",
        "open(f'/proc/{os.getppid()}/environ').read()",
        "open(f'/proc/{os.getppid()}/maps').read()",
        "os.listdir('/')",
        "os.listdir('/proc')",
        "open('/tmp/grader', 'w')",
        "os.mkdir('/tmp/grader')",
        "os.unlink('FILE')",
        "os.chmod('/tmp', 0o777)",
        "os.utime('/tmp')",
        "os.chown('/tmp', 0, 0)",
        "os.truncate('FILE', 0)",
        "os.memfd_create('x')",
        "import ctypes; ctypes.CDLL(None).syscall(101, 16, os.getppid(), 0, 0) and 1 / 0",
        "score = [0] * 10**9",
    ],
)
def test_it_does_nothing_else(sandbox: Sandbox, code: str, tmp_path: Path) -> None:
    file = tmp_path / "kept"
    file.write_text("kept")
    details = error_of(sandbox, f"score = 0\n{code.replace('FILE', str(file))}")
    assert file.read_text() == "kept"
    assert any(word in details for word in ("PermissionError", "MemoryError", "can't start", "ZeroDivision", "EACCES"))


OPEN = """
def is_open(n):
    try:
        os.fstat(n)
        return True
    except OSError:
        return False
score = sum(map(is_open, range(64)))
"""


def test_it_starts_with_nothing(fresh: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://secret")
    with open("/dev/null"):
        names = {*ENVIRONMENT, "LC_CTYPE"}  # which Python sets itself
        assert run(fresh, f"score = len(set(os.environ) - {names})") == 0
        assert run(fresh, OPEN) == 5, "three that lead nowhere, and two pipes"


def test_the_project_cannot_be_imported(sandbox: Sandbox) -> None:
    import_paths = "[p for p in __import__('sys').path if os.path.isdir(p) and 'core' in os.listdir(p)]"
    assert run(sandbox, f"score = len({import_paths})") == 0
    assert "ModuleNotFoundError" in error_of(sandbox, "import core.settings")


def test_a_grader_that_hangs_is_killed_and_replaced(fresh: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox_module, "SECONDS_A_SAMPLE", 0.2)
    child = psutil.Process(int(run(fresh, "score = os.getpid()")))
    assert "took longer than 0.2 seconds" in error_of(fresh, "while True: pass")
    assert not child.is_running()
    monkeypatch.undo()
    assert run(fresh, "score = 2") == 2.0


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("os._exit(3)", "left with code 3"),
        ("os.write(4, b'{}\\n')", "wrote into the sandbox's own pipe"),
        ("os.write(4, b'[' * 60000 + b'\\n')", "wrote into the sandbox's own pipe"),
        ('os.write(4, b\'{"score": NaN, "cpu_seconds": 0}\\n\')', "wrote into the sandbox's own pipe"),
        ("os.close(4)", "ended its process"),
        ("import ctypes; ctypes.string_at(0)", "SIGSEGV"),
    ],
)
def test_a_grader_that_ends_its_process(fresh: Sandbox, code: str, says: str) -> None:
    assert says in error_of(fresh, code)
    assert run(fresh, "score = 1") == 1.0, "and the next sample has a new one"


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("score = 'high'", "grade returned 'high'; it must return a number"),
        ("score = None", "grade returned None"),
        ("score = float('nan')", "it must return a finite number"),
        ("score = 10**400", "OverflowError"),
        ("def f(): return f()\nf()", "RecursionError"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise ValueError('x' * 10**6)", "xxx"),
    ],
)
def test_errors_are_reported(sandbox: Sandbox, code: str, says: str) -> None:
    details = error_of(sandbox, code)
    assert says in details
    assert len(details) <= sandbox_child.MAX_ERROR_CHARACTERS


@pytest.mark.parametrize("source", ["1 / 0\ndef grade(s, i): return 1", "def grade(s, i): return 1\ndel grade"])
def test_a_source_that_does_not_load(fresh: Sandbox, source: str) -> None:
    for _ in range(2):
        assert error_of(fresh, "", source).split(":")[0].endswith(("ZeroDivisionError", "KeyError"))


def test_a_source_that_does_not_end(fresh: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox_module, "SECONDS_TO_LOAD", 0.2)
    assert "loading the source took longer" in error_of(fresh, "", "def grade(s, i): return 1\nwhile True: pass")


def test_the_same_sample_has_the_same_score(fresh: Sandbox) -> None:
    code = "import random\nscore = random.random() + list({'a', 'b', 'c', 'd'}).index('a')"
    first = run(fresh, code)
    assert run(fresh, code) == first
    with Sandbox() as another:
        assert run(another, code) == first


def test_many_samples_take_one_child(fresh: Sandbox) -> None:
    pids = {run(fresh, "score = os.getpid()") for _ in range(20)}
    assert len(pids) == 1
    child = psutil.Process(int(pids.pop()))
    fresh.close()
    assert not child.is_running()


def test_a_child_that_has_worked_long_is_replaced(fresh: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox_module, "MAX_CPU_SECONDS", 0.0)
    assert run(fresh, "score = os.getpid()") != run(fresh, "score = os.getpid()")


@on_linux
def test_a_child_ends_with_its_parent(sandbox: Sandbox) -> None:
    program = (
        "import os, sys\nfrom core.graders.grade import Sample\nfrom core.graders.sandbox import Sandbox\n"
        "box = Sandbox()\n"
        "print(int(box.run('import os\\ndef grade(s, i): return os.getpid()', Sample(''), {})), flush=True)\n"
        "box.run('def grade(s, i):\\n    while True: pass', Sample(''), {})"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    child.wait(timeout=5)


@on_linux
def test_without_landlock_it_becomes_nobody_or_refuses() -> None:
    program = (
        "import os\nfrom core.graders import sandbox_child as child\n"
        "try:\n    child.become_nobody()\n    print(os.getuid())\n"
        "except child.Refused as refused:\n    print(refused)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    said = done.stdout.strip()
    assert said == str(sandbox_child.NOBODY) if said.isdigit() else "lacks Landlock" in said
    assert not (said.isdigit() and os.geteuid() != 0)


def test_every_system_call_is_listed_once_for_each_machine() -> None:
    for column in (0, 1):
        numbers = [row[column] for row in sandbox_child.FORBIDDEN.values() if row[column] != sandbox_child.NONE]
        assert len(numbers) == len(set(numbers))
