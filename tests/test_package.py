"""What PyPI would get: the wheels and the sdist hold what they should, and say of themselves what the repository says."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path, PurePosixPath
from tarfile import TarFile

import pytest
import yaml
from packaging.requirements import Requirement

import secateur

ROOT = Path(__file__).parent.parent
ZOO = ROOT / "src" / "secateur_zoo"
MOST_BYTES = 20e6  # of the wheel that everybody downloads


def project(folder: Path) -> dict:
    return tomllib.loads((folder / "pyproject.toml").read_text())["project"]


def tracked(folder: str) -> set[str]:
    """The files of the repository in a folder of src, by their names there."""
    words = ["git", "ls-files", "--cached", "--others", "--exclude-standard", f"src/{folder}"]
    files = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return {str(PurePosixPath(file).relative_to("src")) for file in files if (ROOT / file).exists()}


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with sdist and wheel of both packages, as twine would upload them."""
    out = tmp_path_factory.mktemp("dist")
    for folder in (ROOT, ZOO):
        words = [sys.executable, "-m", "hatchling", "build", "-d", str(out)]
        subprocess.run(words, cwd=folder, check=True, capture_output=True)
    return out


def content(built: Path, name: str) -> tuple[Path, set[str]]:
    """A wheel by the name of its package, and the files in it but for those that say what it is."""
    wheel = next(built.glob(f"{name}-*.whl"))
    return wheel, {file for file in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in file}


def test_twine_finds_nothing_to_complain_of(built):
    words = [sys.executable, "-m", "twine", "check", "--strict", *map(str, sorted(built.iterdir()))]
    checked = subprocess.run(words, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
    assert checked.stdout.count("PASSED") == 4


def test_the_wheel_is_the_package_without_weights(built):
    wheel, files = content(built, "secateur")
    assert files == tracked("secateur")
    assert wheel.stat().st_size < MOST_BYTES / 20
    assert not {Path(file).suffix for file in files} & {".safetensors", ".png"}


def test_the_wheel_of_the_zoo_is_its_folder(built):
    _, files = content(built, "secateur_zoo")
    assert files == tracked("secateur_zoo") - {
        f"secateur_zoo/{name}" for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE.md")
    }


def test_the_sdist_holds_neither_pictures_nor_weights(built):
    archive = TarFile.open(next(built.glob("secateur-*.tar.gz")))
    files = {str(PurePosixPath(*PurePosixPath(name).parts[1:])) for name in archive.getnames()}
    assert {f"src/{name}" for name in tracked("secateur")} <= files
    assert {file for file in files if not file.startswith("src/secateur/")} == {
        "CHANGELOG.md", "CITATION.cff", "LICENSE", "PKG-INFO", "README.md", "pyproject.toml", ".gitignore",
    }  # fmt: skip


def test_the_page_on_pypi_links_nothing_that_is_not_there(built):
    wheel, _ = content(built, "secateur")
    said = zipfile.ZipFile(wheel).read("secateur-0.1.0.dist-info/METADATA").decode()
    targets = re.findall(r"\]\(([^)\s]+)\)", said)
    repository = project(ROOT)["urls"]["Repository"]
    assert len(targets) >= 10
    assert [target for target in targets if not target.startswith("https://")] == []
    for target in targets:
        if path := re.match(rf"{repository}/blob/main/([^#]+)", target):
            assert (ROOT / path.group(1)).exists()


def test_nothing_that_only_draws_figures_is_needed():
    needed = {Requirement(line).name for line in project(ROOT)["dependencies"]}
    assert not needed & {"matplotlib", "datasets", "torchmetrics", "secateur-zoo", "gradio"}
    imports = re.compile(r"^\s*(?:import|from) matplotlib", re.MULTILINE)
    assert [path.name for path in (ROOT / "src").rglob("*.py") if imports.search(path.read_text())] == []


def test_the_version_is_one():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert project(ROOT)["version"] == secateur.__version__ == citation["version"]
    assert f"## {secateur.__version__} " in (ROOT / "CHANGELOG.md").read_text()
    zoo = next(Requirement(line) for line in project(ROOT)["optional-dependencies"]["zoo"])
    assert zoo.name == project(ZOO)["name"]
    assert project(ZOO)["version"] in zoo.specifier


def test_the_oldest_python_is_said_once():
    versions = [line.rpartition(" ")[2] for line in project(ROOT)["classifiers"] if "Python :: 3." in line]
    assert project(ROOT)["requires-python"] == project(ZOO)["requires-python"] == f">={versions[0]}"
    assert f"Python ≥ {versions[0]}" in (ROOT / "README.md").read_text()
