"""What the reference promises, the server keeps: requests made up from it get answers that it describes."""

import subprocess
import sys
from pathlib import Path

import httpx2

from core.jobs import keys
from tests.conformance.conftest import Service

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)


def test_requests_made_up_from_the_reference(service: Service, tmp_path: Path) -> None:
    with service.stack.database.transaction() as session:
        project = keys.ensure_project(session, "fuzz")
        key, _ = keys.create_key(session, project, name="f", scopes=["read", "write", "generate", "metrics"])
    header = f"Bearer {key}"
    with httpx2.Client(trust_env=False) as client:
        answer = client.get(f"{service.base_url}/openapi.json", headers={"authorization": header})
    document = tmp_path / "openapi.json"
    document.write_text(answer.text)
    command = [
        *(Path(sys.executable).with_name("schemathesis"), "run", document, "--url", service.base_url),
        *("-H", f"Authorization: {header}", "--phases", "fuzzing", "--max-examples", "1"),
        *("--checks", ",".join(CHECKS), "--seed", "7", "--generation-database", "none"),
        *("--exclude-path-regex", "stream"),
    ]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stdout[-6000:]
    assert "Selected" in run.stdout
