"""Make .venv and install the exact versions of constraints.txt into it, with the standard library alone.

It parses under any Python 3 of the last ten years, so that an old one is told what is wrong.
"""

import ast
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = str(VENV / "bin" / "python")
READY = VENV / ".ready"
EXTRAS = ".[train,postgres,export,s3,docs,test]"
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
# What pip may be configured for, and the option that says the same to uv, which does not read pip's files.
UV_OPTIONS = {
    "index-url": "--index-url",
    "extra-index-url": "--extra-index-url",
    "find-links": "--find-links",
    "trusted-host": "--allow-insecure-host",
}


def main():
    use_new_enough_python()
    if READY.is_file() and READY.read_text() == digest():
        READY.touch()
        return
    make_venv()
    configured = pip_configuration()
    install_torch(configured)
    if not install_with_uv(configured):
        say("uv cannot be used here; pip installs the same set, which takes some minutes.")
        pip_or_exit("-c", "constraints.txt", "-e", EXTRAS)
    READY.write_text(digest())
    say("ready. `make demo` shows the whole way from data to text; `make help` lists the rest.")


def use_new_enough_python():
    """Go on under the newest suitable Python of this machine, or say which one is missing."""
    if sys.version_info >= (3, 11):  # noqa: UP036  an older Python is the very reason for this function
        return
    for name in ("python3.14", "python3.13", "python3.12", "python3.11"):
        if shutil.which(name):
            os.execvp(name, [name, *sys.argv])
    sys.exit(
        f"Weightsmith needs Python 3.11 or newer; {sys.executable} is {version()}, and PATH has no newer.\n"
        "Install one (Debian, Ubuntu: apt-get install python3.11 python3.11-venv; macOS: brew install python)"
        "\nor name one: make setup PYTHON=/path/to/python3.12"
    )


def version():
    return ".".join(map(str, sys.version_info[:2]))


def digest():
    """Fingerprint of all that decides what lies in .venv, its own place included: a venv cannot be moved."""
    inputs = [(ROOT / name).read_bytes() for name in ("pyproject.toml", "constraints.txt", "scripts/setup.py")]
    return hashlib.sha256(b"\0".join([*inputs, str(ROOT).encode()])).hexdigest()


def make_venv():
    if run(PYTHON, "-m", "pip", "--version", quiet=True):
        return
    say(f"making .venv with Python {version()}.")
    if not run(sys.executable, "-m", "venv", "--clear", str(VENV)):
        sys.exit(
            "Python's venv module does not work here. Debian and Ubuntu keep it in a package of its own:\n"
            f"apt-get install python{version()}-venv"
        )


def pip_configuration():
    """Where pip is told to look, by its files and PIP_* variables: option -> values, the strongest kept."""
    listing = subprocess.check_output([PYTHON, "-m", "pip", "config", "list"], universal_newlines=True)
    found = {}
    for line in listing.splitlines():
        key, _, value = line.partition("=")
        section, _, option = key.rpartition(".")
        if option in UV_OPTIONS and section in ("global", "install", ":env:"):
            found[option] = ast.literal_eval(value).split()
    return found


def install_torch(configured):
    """Choose the build first: a resolver left alone takes gigabytes of CUDA on a machine without a GPU."""
    torch = ("--no-deps", "-c", "constraints.txt", "torch")
    places = [place for option in configured if option != "trusted-host" for place in configured[option]]
    if places:
        say("torch: from where pip is configured to look ({}).".format(", ".join(places)))
    elif sys.platform.startswith("linux") and not has_nvidia_driver():
        say(f"torch: no NVIDIA driver here, so the CPU build from {TORCH_CPU_INDEX}")
        if pip("--index-url", TORCH_CPU_INDEX, *torch):
            return
        say("that address cannot be reached; PyPI's build is larger and works as well.")
    else:
        say("torch: PyPI's default build for this machine.")
    pip_or_exit(*torch)


def has_nvidia_driver():
    places = ("/proc/driver/nvidia/version", "/dev/nvidiactl", "/dev/dxg")  # the last one: WSL
    return any(Path(place).exists() for place in places)


def install_with_uv(configured):
    """uv takes seconds where pip takes minutes. It looks where pip looks, weighing all places as pip does."""
    if not pip("--quiet", "-c", "constraints.txt", "uv"):
        return False
    places = [word for option in configured for value in configured[option] for word in (UV_OPTIONS[option], value)]
    command = [
        PYTHON,
        "-m",
        "uv",
        "pip",
        "install",
        "--python",
        PYTHON,
        "--index-strategy",
        "unsafe-best-match",
    ]
    cache = [] if os.access(str(Path.home()), os.W_OK) else ["--no-cache"]
    return run(*command, *cache, *places, "-c", "constraints.txt", "-e", EXTRAS)


def pip(*arguments):
    return run(PYTHON, "-m", "pip", "--disable-pip-version-check", "install", *arguments)


def pip_or_exit(*arguments):
    if not pip(*arguments):
        sys.exit("setup: pip failed; the lines above say why. `make setup` goes on from here once it is mended.")


def run(*command, quiet=False):
    """Run a command in the checkout; True when it succeeded."""
    output = subprocess.DEVNULL if quiet else None
    try:
        return subprocess.call(command, cwd=str(ROOT), stdout=output, stderr=output) == 0
    except FileNotFoundError:
        return False


def say(message):
    print("setup: " + message, flush=True)


if __name__ == "__main__":
    main()
