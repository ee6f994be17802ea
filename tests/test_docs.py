"""docs/: every objective's example is true, every link alive.

(That generated parts are fresh and codes complete: test_architecture.py, where whoever changes the program meets it.)
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from core.data.detection import formats_of
from core.data.reader import parse
from core.job_spec import TrainSpec, check_fit
from core.objectives import OBJECTIVES
from core.settings import Settings

ROOT = Path(__file__).resolve().parent.parent


def examples() -> dict[str, tuple[list[dict[str, Any]], dict[str, Any]]]:
    """Rows and spec of each objective's section."""
    text = (ROOT / "docs" / "objectives.md").read_text()
    found = {}
    for section in re.split(r"^### ", text, flags=re.MULTILINE)[1:]:
        rows, spec = re.findall(r"^```json\n(.*?)^```$", section.partition("<!-- end -->")[2], re.MULTILINE | re.DOTALL)
        found[section.partition("\n")[0]] = [json.loads(line) for line in rows.splitlines()], json.loads(spec)
    return found


def test_every_objective_has_an_example() -> None:
    assert list(examples()) == sorted(OBJECTIVES, key=list(examples()).index)


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_an_example_can_be_trained_on(kind: str) -> None:
    rows, said = examples()[kind]
    spec = TrainSpec.model_validate(said)
    assert spec.objective.kind == kind
    for row in rows:
        fitting = [format for format in formats_of(row) if accepts(kind, format)]
        assert fitting, f"{row} fits no format that {kind} takes"
        assert isinstance(parse(row, fitting[0]), OBJECTIVES[kind].consumes)


def accepts(kind: str, format: Any) -> bool:
    try:
        check_fit(kind, format)
    except ValueError:
        return False
    return True


def test_the_site_builds_without_a_dead_link(tmp_path: Path) -> None:
    config = (ROOT / "zensical.toml").read_text()
    config = config.replace('site_dir = "build/site"', f'site_dir = "{tmp_path}/site"')
    (tmp_path / "zensical.toml").write_text(config)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    zensical = Path(sys.executable).parent / "zensical"
    built = subprocess.run([zensical, "build", "--strict"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert built.returncode == 0, built.stdout + built.stderr
    page = (tmp_path / "site" / "zh" / "first-model.html").read_text()
    assert re.findall(r'(?:src|href)="https?://[^"]*\.(?:js|css|woff2?)', page) == []


def test_every_setting_says_what_it_is_for() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []
