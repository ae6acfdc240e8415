"""What GitHub reads: workflows call what there is, forms can be filled in, and every address is the repository's."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REPOSITORY = PROJECT["urls"]["Repository"]
WORKFLOWS: dict[str, dict[Any, Any]] = {
    path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / ".github" / "workflows").glob("*.yml")
}
FORMS = [path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config"]


def steps(name: str) -> list[dict[str, Any]]:
    return [step for job in WORKFLOWS[name]["jobs"].values() for step in job["steps"]]


def test_ci_runs_what_runs_here_on_every_python_that_is_named():
    assert [step["run"] for step in steps("ci") if "run" in step] == [".ci/run"]
    named = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if "Python :: 3." in line]
    assert WORKFLOWS["ci"]["jobs"]["check"]["strategy"]["matrix"]["python"] == named
    mode = subprocess.run(["git", "ls-files", "-s", ".ci/run"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert mode.startswith("100755")


def test_the_targets_that_workflows_make_are_in_the_makefile():
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    made = [
        name for workflow in WORKFLOWS for step in steps(workflow) for name in re.findall(r"make ([\w-]+)", step.get("run", ""))
    ]
    assert made == ["docs"]
    assert set(made) <= set(targets)


def test_a_tag_builds_both_packages_and_only_the_last_job_may_publish():
    release = WORKFLOWS["release"]
    assert release[True] == {"push": {"tags": ["v*"]}}  # YAML reads `on` as true
    run = "\n".join(step.get("run", "") for step in steps("release"))
    assert [line for line in run.splitlines() if line.startswith("python -m")] == [
        "python -m pip install build twine",
        "python -m build --outdir dist .",
        "python -m build --outdir dist src/secateur_zoo",
        "python -m twine check --strict dist/*",
        "python -m venv bare",
    ]
    may = {name: job.get("permissions", release["permissions"]) for name, job in release["jobs"].items()}
    assert may == {"build": {"contents": "read"}, "publish": {"id-token": "write"}}
    assert release["jobs"]["publish"]["needs"] == "build"
    assert not re.search(
        "secrets|password|token:", (ROOT / ".github/workflows/release.yml").read_text().replace("id-token:", "")
    )


def test_forms_ask_for_something():
    assert {path.stem for path in FORMS} == {"bug", "pipeline"}
    for path in FORMS:
        form = yaml.safe_load(path.read_text())
        assert {"name", "description", "body"} <= form.keys()
        ids = [part["id"] for part in form["body"]]
        assert len(ids) == len(set(ids))
        assert any(part.get("validations", {}).get("required") for part in form["body"])


def test_every_address_on_github_is_the_repository():
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    texts = (".md", ".toml", ".yml", ".cff", ".ipynb")
    ours = re.compile(
        r"https://(?:github\.com|raw\.githubusercontent\.com|colab\.research\.google\.com/github)/([\w-]+/secateur)\b"
    )
    found = {
        address
        for name in files.stdout.splitlines()
        if name.endswith(texts) and (ROOT / name).exists()
        for address in ours.findall((ROOT / name).read_text())
    }
    assert found == {REPOSITORY.removeprefix("https://github.com/")}
