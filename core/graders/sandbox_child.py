"""The program that runs python graders, code from strangers. `core.graders.sandbox` starts it; nothing imports it.

Before it reads any of that code it gives up, for ever:
- memory, processor time, file sizes, core dumps (limits),
- root's privileges, where it has them (capabilities),
- the network, new processes and threads, signals to and limits of others, permissions of files (a seccomp filter),
- every file but Python's own packages and the system's libraries (Landlock; where the kernel has none and it is root,
  it becomes nobody instead).
On Linux it refuses to work where it cannot. Elsewhere there are only the limits: no place for strangers.

It speaks in lines of JSON:

    to it                from it
                         {"ready": true} or {"refused": why}
    {"source"}           {} or {"error"}
    {"sample", "item"}   {"score", "cpu_seconds"} or {"error", "cpu_seconds"}
"""

import ctypes
import json
import linecache
import math
import os
import platform
import random
import resource
import signal
import sys
import sysconfig
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

MEMORY_BYTES = 1 << 30
CPU_SECONDS = 3600
MAX_ERROR_CHARACTERS = 2000
FILE = "grader.py"
NOBODY = 65534

PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 22, 38
SECCOMP_MODE_FILTER = 2

# Of linux/filter.h and linux/seccomp.h.
LOAD_WORD, JUMP_EQUAL, JUMP_GREATER_EQUAL, RETURN = 0x20, 0x15, 0x35, 0x06
KILL, REFUSE, ALLOW = 0x80000000, 0x00050000 | 1, 0x7FFF0000
AT_NUMBER, AT_ARCHITECTURE = 0, 4
X32 = 0x40000000

ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""column of the table below, and the kernel's name for it"""
NONE = -1
FORBIDDEN = {
    # the network
    "socket": (41, 198), "connect": (42, 203), "accept": (43, 202), "sendto": (44, 206), "sendmsg": (46, 211),
    "bind": (49, 200), "listen": (50, 201), "accept4": (288, 242),
    # processes and threads
    "clone": (56, 220), "fork": (57, NONE), "vfork": (58, NONE), "execve": (59, 221), "execveat": (322, 281),
    "clone3": (435, 435),
    # other processes
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "pidfd_send_signal": (424, 424), "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438), "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "process_madvise": (440, 440), "kcmp": (312, 272), "setpriority": (141, 140), "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119), "sched_setaffinity": (203, 122), "sched_setattr": (314, 274),
    "ioprio_set": (251, 30), "setrlimit": (160, 164), "prlimit64": (302, 261),
    # what lies beside the files: owners, permissions, times, attributes
    "chmod": (90, NONE), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, NONE),
    "fchown": (93, 55), "lchown": (94, NONE), "fchownat": (260, 54), "utime": (132, NONE), "utimes": (235, NONE),
    "futimesat": (261, NONE), "utimensat": (280, 88), "truncate": (76, 45), "setxattr": (188, 5),
    "lsetxattr": (189, 6), "fsetxattr": (190, 7), "removexattr": (197, 14), "lremovexattr": (198, 15),
    "fremovexattr": (199, 16), "setxattrat": (463, 463), "removexattrat": (466, 466),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    # what outlives a process, and wide doors of the kernel
    "shmget": (29, 194), "semget": (64, 190), "msgget": (68, 186), "mq_open": (240, 180), "memfd_create": (319, 279),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219), "unshare": (272, 97), "setns": (308, 268),
    "perf_event_open": (298, 241), "bpf": (321, 280), "userfaultfd": (323, 282), "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
}  # fmt: skip
"""numbers of system calls on x86_64 and on aarch64"""

CAPABILITY_VERSION = 0x20080522
LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446
READ_FILE, READ_FOLDER = 1 << 2, 1 << 3
FILE_RIGHTS = ((1, 0x1FFF), (2, 0x2000), (3, 0x4000), (5, 0x8000))
"""all there are, by the version that brought them"""
SYSTEM = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo", "/etc/ld.so.cache", "/etc/localtime")
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")


class Refused(Exception):
    """This machine cannot hold a grader."""


class Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint16), ("yes", ctypes.c_uint8), ("no", ctypes.c_uint8), ("k", ctypes.c_uint32))


class Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("instructions", ctypes.POINTER(Instruction)))


class Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scope", ctypes.c_uint64))


class Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("rights", ctypes.c_uint64), ("folder", ctypes.c_int32))


def confine() -> None:
    """
    Raises:
        Refused: on Linux, where something of it cannot be had.
    """
    for limit, value in (
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 64),
    ):
        resource.setrlimit(limit, (value, value))
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise Refused("the kernel does not know PR_SET_NO_NEW_PRIVS")
    forbid_files(libc)
    drop_capabilities(libc)
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    forbid_system_calls(libc)


def readable_folders() -> list[str]:
    """What Python needs to import its packages. A project's own folder, which an editable install adds, is not one."""
    python = [sys.prefix, sys.base_prefix, sys.exec_prefix, sysconfig.get_path("stdlib")]
    return [path for path in (*python, *SYSTEM) if path != "/" and os.path.exists(path)]


def forbid_files(libc: ctypes.CDLL) -> None:
    folders = readable_folders()
    sys.path[:] = [path for path in sys.path if any(Path(path).is_relative_to(folder) for folder in folders)]
    version = libc.syscall(LANDLOCK_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    if version < 1:
        become_nobody()
        return
    rights = sum(bits for since, bits in FILE_RIGHTS if version >= since)
    ruleset = Ruleset(rights, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    rules = libc.syscall(LANDLOCK_CREATE, ctypes.byref(ruleset), ctypes.c_size_t(ctypes.sizeof(ruleset)), 0)
    if rules < 0:
        raise Refused(f"Landlock: {os.strerror(ctypes.get_errno())}")
    for path in (*folders, *DEVICES):
        try:
            at = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        beneath = Beneath(READ_FILE | (READ_FOLDER if os.path.isdir(path) else 0), at)
        if libc.syscall(LANDLOCK_ADD, rules, 1, ctypes.byref(beneath), 0):
            raise Refused(f"Landlock: {path}: {os.strerror(ctypes.get_errno())}")
        os.close(at)
    if libc.syscall(LANDLOCK_RESTRICT, rules, 0):
        raise Refused(f"Landlock: {os.strerror(ctypes.get_errno())}")
    os.close(rules)


def become_nobody() -> None:
    """A user who owns nothing and reads no secrets."""
    if os.geteuid() != 0:
        raise Refused(
            "its kernel lacks Landlock (Linux 5.13 or newer, enabled), so a grader could read the service's files"
        )
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    if not os.access(sysconfig.get_path("stdlib"), os.R_OK | os.X_OK):
        raise Refused("its kernel lacks Landlock (Linux 5.13), and only the service's user can read Python's packages")


def drop_capabilities(libc: ctypes.CDLL) -> None:
    """What makes root more than the owner of its files."""
    header, nothing = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0), (ctypes.c_uint32 * 6)()
    if libc.capset(ctypes.byref(header), ctypes.byref(nothing)):
        raise Refused(f"capset: {os.strerror(ctypes.get_errno())}")


def forbid_system_calls(libc: ctypes.CDLL) -> None:
    machine = platform.machine()
    if machine not in ARCHITECTURES:
        raise Refused(f"there is no list of system calls for {machine}")
    column, architecture = ARCHITECTURES[machine]
    numbers = [row[column] for row in FORBIDDEN.values() if row[column] != NONE]
    ends = len(numbers) + 1  # behind the tests: allow, refuse
    code = [
        (LOAD_WORD, 0, 0, AT_ARCHITECTURE),
        (JUMP_EQUAL, 1, 0, architecture),
        (RETURN, 0, 0, KILL),
        (LOAD_WORD, 0, 0, AT_NUMBER),
        (JUMP_GREATER_EQUAL, ends, 0, X32),
        *((JUMP_EQUAL, ends - 1 - i, 0, number) for i, number in enumerate(numbers)),
        (RETURN, 0, 0, ALLOW),
        (RETURN, 0, 0, REFUSE),
    ]
    program = Program(len(code), (Instruction * len(code))(*(Instruction(*line) for line in code)))
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0):
        raise Refused(f"seccomp: {os.strerror(ctypes.get_errno())}")


def load(source: str) -> Callable[[Any, Any], Any]:
    """The source's `grade`."""
    linecache.cache[FILE] = (len(source), None, source.splitlines(keepends=True), FILE)
    module = ModuleType("grader")
    sys.modules["grader"] = module
    exec(compile(source, FILE, "exec"), module.__dict__)
    grade: Callable[[Any, Any], Any] = module.__dict__["grade"]
    return grade


def score(grade: Callable[[Any, Any], Any], request: dict[str, Any]) -> float:
    random.seed(0)  # the same score for the same sample
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    given = grade(request["sample"], request["item"])
    if isinstance(given, str | bytes) or not hasattr(given, "__float__"):
        raise TypeError(f"grade returned {given!r:.100}; it must return a number")
    number = float(given)
    if not math.isfinite(number):
        raise ValueError(f"grade returned {number}; it must return a finite number")
    return number


def what_happened(error: BaseException) -> str:
    """The traceback, without the frames of this program."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == FILE]
    lines = traceback.format_list(frames) + traceback.format_exception_only(error)
    return "".join(lines).strip()[-MAX_ERROR_CHARACTERS:]


def main() -> None:
    # What the foreign code prints goes nowhere, and it reads nothing.
    requests, replies = os.fdopen(os.dup(0), "rb"), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    os.close(nothing)

    def say(reply: dict[str, Any]) -> None:
        os.write(replies, json.dumps(reply).encode() + b"\n")

    try:
        confine()
    except (Refused, OSError) as error:
        say({"refused": str(error)})
        return
    say({"ready": True})
    grade = None
    for line in requests:
        reply: dict[str, Any] = {}
        try:
            request = json.loads(line)
            if grade is None:
                grade = load(request["source"])
            else:
                reply["score"] = score(grade, request)
        except BaseException as error:  # foreign code can raise anything, SystemExit too
            reply = {"error": what_happened(error)}
        say(reply | {"cpu_seconds": time.process_time()})


if __name__ == "__main__":
    main()
