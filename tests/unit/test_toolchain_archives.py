"""The zip files of code archives."""

import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xfarm.errors import UserError
from xfarm.toolchain.archives import write_zip, zip_path

SIGNATURE = "4dabf18193072939515e22adb298388d"
ARCHIVE = {SIGNATURE: "0def7320c3a5731c473e5ecbe6d01bc7"}
ASSET = {SIGNATURE: "c44067f5952c0a294b673a41bacd8c17"}


def zipped(archive: dict[str, Any], folder: Path) -> Path:
    write_zip(archive, folder, Path())
    return zip_path(archive, folder, Path())


@given(st.dictionaries(st.from_regex(r"[a-z]{1,5}\.py", fullmatch=True), st.text(max_size=20), min_size=1))
def test_the_name_depends_on_the_content_and_not_on_its_order(files: dict[str, str]) -> None:
    assets = {name: ASSET | {"text": text} for name, text in files.items()}
    backwards = dict(reversed(assets.items()))
    changed = assets | {"added.txt": ASSET | {"text": "more"}}
    folder = Path("/nowhere")
    assert zip_path(ARCHIVE | {"assets": assets}, folder, Path()) == zip_path(
        ARCHIVE | {"assets": backwards}, folder, Path()
    )
    assert zip_path(ARCHIVE | {"assets": assets}, folder, Path()) != zip_path(
        ARCHIVE | {"assets": changed}, folder, Path()
    )


def test_equal_code_makes_equal_bytes_whatever_its_time_and_mode(tmp_path: Path) -> None:
    source = tmp_path / "main.py"
    source.write_text("x = 1")
    archive = ARCHIVE | {"assets": {"main.py": ASSET | {"path": str(source)}}}
    first = zipped(archive, tmp_path / "one").read_bytes()
    os.utime(source, (0, 0))
    source.chmod(0o600)
    assert zipped(archive, tmp_path / "two").read_bytes() == first


def test_a_folder_is_zipped_with_its_subfolders(tmp_path: Path) -> None:
    (tmp_path / "code" / "inner").mkdir(parents=True)
    (tmp_path / "code" / "main.py").write_text("x = 1")
    (tmp_path / "code" / "inner" / "data.txt").write_text("d")
    with zipfile.ZipFile(zipped(ARCHIVE | {"path": str(tmp_path / "code")}, tmp_path / "zips")) as result:
        assert result.namelist() == ["inner/data.txt", "main.py"]
        assert result.read("main.py") == b"x = 1"


def test_archives_in_archives_become_folders(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "lib.zip", "w") as library:
        library.writestr("lib.py", "y = 2")
    inner = ARCHIVE | {"path": str(tmp_path / "lib.zip")}
    with zipfile.ZipFile(zipped(ARCHIVE | {"assets": {"vendor": inner}}, tmp_path / "zips")) as result:
        assert result.read("vendor/lib.py") == b"y = 2"


@pytest.mark.parametrize(
    "archive",
    [
        ARCHIVE | {"path": "/not/there"},
        ARCHIVE | {"assets": {"main.py": ASSET | {"path": "/not/there"}}},
        ARCHIVE | {"assets": {"main.py": ASSET | {"uri": "https://example.invalid/main.py"}}},
    ],
)
def test_an_error_names_the_code_that_is_not_on_this_machine(archive: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"/not/there|example\.invalid"):
        write_zip(archive, tmp_path, Path())


def test_relative_paths_start_from_the_project_of_the_archive(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "main.py").write_text("x = 1\n")
    (tmp_path / "project").mkdir()
    archive = ARCHIVE | {"assets": {"main.py": ASSET | {"path": "../code/main.py"}}}
    write_zip(archive, tmp_path, tmp_path / "project")
    with zipfile.ZipFile(zip_path(archive, tmp_path, tmp_path / "project")) as written:
        assert written.read("main.py") == b"x = 1\n"
