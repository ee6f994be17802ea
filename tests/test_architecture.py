"""The rules of the house that no other tool checks. A failure names the file and line, and the rule says what to do."""

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

from scripts import pages

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("api", "worker", "core", "cli")
BANNED_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "types", "base"}
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 80
# The two functions whose whole point is to be read from top to bottom in one piece.
LONG_FUNCTIONS = {"train": 120, "forward": 120}
# Codes of errors that no keyword `code=` gives.
CODES_SAID_OTHERWISE = {
    *("poison", "too_many_attempts", "unknown_route", "method_not_allowed", "bad_request", "invalid_json"),
    *("model_cannot_generate", "model_cannot_classify", "model_cannot_embed"),
}


@cache
def sources(*folders: str) -> tuple[Path, ...]:
    return tuple(sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py")))


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def places(matches: Callable[[ast.AST], bool], *, outside: tuple[str, ...] = ()) -> list[str]:
    """`file:line` of each node that matches, in the four packages, except below the paths `outside`."""
    return [
        f"{name}:{node.lineno}"
        for path in sources(*PACKAGES)
        if not (name := str(path.relative_to(ROOT))).startswith(outside or ("\0",))
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.expr | ast.stmt) and matches(node)
    ]


def dotted(node: ast.AST) -> str:
    """`a.b.c` for a chain of names, with "?" for what is computed; "" for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value) or '?'}.{node.attr}"
    return ""


def called(node: ast.AST) -> str:
    return dotted(node.func) if isinstance(node, ast.Call) else ""


def imported(node: ast.AST) -> set[str]:
    """The top-level packages that an import statement names."""
    if isinstance(node, ast.Import):
        return {alias.name.partition(".")[0] for alias in node.names}
    if isinstance(node, ast.ImportFrom):
        return {(node.module or "").partition(".")[0]}
    return set()


def test_import_contracts_hold(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    code = lint_imports(no_cache=True)
    assert code == 0, capsys.readouterr().out


@pytest.mark.parametrize(
    "module", ["api.app", "worker.app", "worker.tasks", "cli.main", "core.jobs.store", "core.job_spec"]
)
def test_starts_without_torch(module: str) -> None:
    program = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    started = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert started.returncode == 0, started.stderr or f"{module} loads torch"


@pytest.mark.parametrize(("package", "listing"), [("core.objectives", "OBJECTIVES"), ("core.data.formats", "FORMATS")])
def test_every_file_is_in_its_union(package: str, listing: str) -> None:
    listed = getattr(import_module(package), listing)
    folder = ROOT / package.replace(".", "/")
    files = {path.stem for path in folder.glob("*.py") if path.stem != "__init__"}
    assert {cls.__module__.removeprefix(f"{package}.") for cls in listed.values()} == files
    assert all(cls.__name__ for cls in listed.values())


def test_the_objective_union_is_the_listing() -> None:
    from typing import get_args

    from core.objectives import OBJECTIVES, Objective

    union = get_args(Objective)[0]
    assert set(get_args(union)) == set(OBJECTIVES.values())
    for kind, cls in OBJECTIVES.items():
        assert cls.model_fields["kind"].default == kind


def test_one_commit() -> None:
    commits = places(lambda node: called(node).endswith(".commit"), outside=("core/jobs/database.py",))
    assert commits == [], "only core/jobs/database.py commits; use `with database.transaction()`"
    inside = [n for n in ast.walk(tree_of(ROOT / "core/jobs/database.py")) if called(n).endswith(".commit")]
    assert len(inside) == 1


def test_the_environment_is_read_in_one_file() -> None:
    def reads(node: ast.AST) -> bool:
        if isinstance(node, ast.ImportFrom) and node.module == "os":
            return any(alias.name in ("environ", "getenv", "environb") for alias in node.names)
        return dotted(node) in ("os.environ", "os.getenv", "os.environb")

    assert places(reads, outside=("core/settings.py",)) == [], "only core/settings.py reads the environment"


def test_the_broker_is_named_in_one_file() -> None:
    def names(node: ast.AST) -> bool:
        if isinstance(node, ast.ImportFrom) and node.module == "celery":
            return [alias.name for alias in node.names] != ["Celery"]  # the type of what queue.py makes
        return bool(imported(node) & {"celery", "kombu", "redis"})

    found = places(names, outside=("core/jobs/queue.py", "worker/", "cli/up.py", "cli/doctor.py"))
    assert found == [], "only core/jobs/queue.py knows which broker there is"


def test_job_state_is_written_by_the_store_alone() -> None:
    def writes(node: ast.AST) -> bool:
        if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            return any(re.fullmatch(r"(\w+\.)?job\.state", dotted(target)) for target in targets)
        if isinstance(node, ast.Call) and called(node).endswith(".values"):
            return "Job" in ast.dump(node.func) and any(k.arg == "state" for k in node.keywords)
        return False

    assert places(writes, outside=("core/jobs/store.py",)) == [], "only core/jobs/store.py moves a job"


def test_nothing_prints() -> None:
    printed = places(lambda node: called(node) in ("print", "pprint", "pprint.pprint"), outside=("cli/",))
    assert printed == [], "use logging; only cli/ speaks to a terminal"


def test_nothing_dangerous_is_called() -> None:
    banned_calls = {"eval", "exec", "torch.load", "os.system", "os.popen", "yaml.load", "marshal.loads"}
    banned_modules = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal"}

    def dangerous(node: ast.AST) -> bool:
        if called(node) in banned_calls or imported(node) & banned_modules:
            return True
        shells = [k for k in node.keywords if k.arg == "shell"] if isinstance(node, ast.Call) else []
        return any(not (isinstance(k.value, ast.Constant) and k.value.value is False) for k in shells)

    # The one program whose work is to run strangers' code, after it has given up everything.
    found = places(dangerous, outside=("core/graders/sandbox_child.py",))
    assert found == [], "no pickle, eval, exec or shell: data and models come from strangers"


def test_a_broad_except_stands_at_a_process_boundary_or_says_why() -> None:
    allowed = ("core/child.py", "worker/", "api/app.py", "api/errors.py", "cli/")
    unexplained = [
        f"{path.relative_to(ROOT)}:{handler.lineno}"
        for path in sources(*PACKAGES)
        if not str(path.relative_to(ROOT)).startswith(allowed)
        for handler in ast.walk(tree_of(path))
        if isinstance(handler, ast.ExceptHandler)
        and (handler.type is None or dotted(handler.type) in ("Exception", "BaseException"))
        and not passes_on(handler)
        and "#" not in path.read_text().splitlines()[handler.lineno - 1]
    ]
    assert unexplained == [], "name the exceptions you expect, or say on the line why that is impossible"


def passes_on(handler: ast.ExceptHandler) -> bool:
    """It only tidies up: the last thing it does is a bare `raise`."""
    last = handler.body[-1]
    return isinstance(last, ast.Raise) and last.exc is None


def test_files_and_functions_are_short() -> None:
    long_files = {
        str(path.relative_to(ROOT)): lines
        for path in sources(*PACKAGES)
        if (lines := len(path.read_text().splitlines())) > MAX_FILE_LINES
    }
    assert long_files == {}, "two things live in one room"
    long_functions = {
        f"{path.relative_to(ROOT)}:{function.lineno} {function.name}": lines
        for path, function in functions()
        if (lines := length(function)) > LONG_FUNCTIONS.get(function.name, MAX_FUNCTION_LINES)
    }
    assert long_functions == {}, "a function that does not fit a screen cannot be read aloud"


def functions() -> Iterator[tuple[Path, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for path in sources(*PACKAGES):
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield path, node


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    assert function.end_lineno is not None
    return function.end_lineno - function.lineno + 1


def test_modules_are_named_for_what_they_hold() -> None:
    names = {part for path in sources(*PACKAGES) for part in path.relative_to(ROOT).with_suffix("").parts}
    assert names & BANNED_NAMES == set()


def test_every_module_says_what_it_is_for() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in sources(*PACKAGES)
        if path.name != "__init__.py" and ast.get_docstring(tree_of(path)) is None
    ]
    assert silent == []


def test_every_objective_names_its_source() -> None:
    for path in sources("core/objectives"):
        if path.name != "__init__.py":
            text = ast.get_docstring(tree_of(path)) or ""
            assert re.search(r"\b(19|20)\d\d\b|arXiv", text), f"{path.name}: whose formula is it?"


def test_generated_parts_of_the_docs_are_fresh() -> None:
    stale = [path.name for path, text in pages.pages().items() if path.read_text() != text]
    assert stale == [], "run `.venv/bin/python -m scripts.pages` (or `make docs`) and commit what it changes"


def codes_in(tree: ast.AST) -> set[str]:
    """What stands at `code=` in calls, and as `default_code` of errors."""
    values: list[ast.expr] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            values += [keyword.value for keyword in node.keywords if keyword.arg == "code"]
        if isinstance(node, ast.Assign) and any(getattr(target, "id", "") == "default_code" for target in node.targets):
            values.append(node.value)
    values += [branch for value in values if isinstance(value, ast.IfExp) for branch in (value.body, value.orelse)]
    return {value.value for value in values if isinstance(value, ast.Constant) and isinstance(value.value, str)}


def test_every_code_has_a_line_and_no_line_is_invented() -> None:
    known = set.union(*(codes_in(tree_of(path)) for path in sources("api", "core", "worker")))
    rows = re.findall(r"^\| (`[^|]+) \|", (ROOT / "docs" / "errors.md").read_text(), flags=re.MULTILINE)
    listed = [code for row in rows for code in re.findall(r"`(\w+)`", row)]
    assert len(listed) == len(set(listed)), "a code stands in two tables"
    assert (known | CODES_SAID_OTHERWISE) ^ set(listed) == set(), "docs/errors.md: one line for each code, and no other"
