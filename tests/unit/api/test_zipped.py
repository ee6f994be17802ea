"""The zip of a model: readable by anyone, as long as announced, the same every time."""

import io
import zipfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from api import zipped

FILES = {"config.json": b"{}", "model.safetensors": bytes(range(256)) * 9000, "ä/empty": b""}


def make(folder: Path, contents: dict[str, bytes]) -> dict[str, Path]:
    files = {}
    for i, (name, content) in enumerate(contents.items()):
        files[name] = folder / str(i)
        files[name].write_bytes(content)
    return files


def test_anyone_can_read_it(tmp_path: Path) -> None:
    data = b"".join(zipped.stream(make(tmp_path, FILES)))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()} == FILES


def test_it_comes_in_pieces(tmp_path: Path) -> None:
    pieces = list(zipped.stream(make(tmp_path, FILES)))
    assert max(map(len, pieces)) <= zipped.BLOCK_BYTES + 1024


@given(st.dictionaries(st.text("abcä/.", min_size=1, max_size=20), st.binary(max_size=300), max_size=4))
def test_its_length_is_known_before(tmp_path_factory: object, contents: dict[str, bytes]) -> None:
    folder = tmp_path_factory.mktemp("zip")  # type: ignore[attr-defined]
    files = make(folder, contents)
    first, second = (b"".join(zipped.stream(files)) for _ in range(2))
    assert len(first) == zipped.num_bytes(files)
    assert first == second
