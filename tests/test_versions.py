"""The Pythons that this project is for, and the versions in constraints.txt, on each of them."""

import re
from importlib import metadata

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from train_net_runs import ROOT

PYTHONS = ["3.11", "3.12", "3.13", "3.14"]
# Of the environment, and those that torch brings for its GPUs.
NOT_PINNED = re.compile(r"setuptools|nvidia-.*|cuda-.*|triton")


def pins(python: str) -> dict[str, str]:
    """Name -> version in constraints.txt that counts on a Python."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    counting = [r for r in found if r.marker is None or r.marker.evaluate(environment(python))]
    return {canonicalize_name(r.name): str(r.specifier).removeprefix("==") for r in counting}


def environment(python: str) -> dict[str, str]:
    return {
        **default_environment(),
        "python_version": python,
        "python_full_version": f"{python}.9",
        "extra": "",
    }


def test_all_places_name_the_same_pythons():
    setup = (ROOT / "setup.py").read_text()
    assert f'python_requires=">={PYTHONS[0]}"' in setup
    minors = ", ".join(python.removeprefix("3.") for python in PYTHONS)
    assert f"PYTHON_MINORS = ({minors})" in setup
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())
    assert workflow["jobs"]["tests"]["strategy"]["matrix"]["python"] == PYTHONS
    promise = f"Python {PYTHONS[0]} to {PYTHONS[-1]}"
    for page in ("README.md", "docs/GETTING_STARTED.md", "constraints.txt"):
        assert promise in " ".join((ROOT / page).read_text().replace("\n#", " ").split())
    target = f'target-version = "py{PYTHONS[0].replace(".", "")}"'
    assert target in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize("python", PYTHONS)
def test_the_pinned_versions_go_together(python):
    """Of those that are installed here in the pinned version; pip answers for the others."""
    versions, problems, checked = pins(python), [], 0
    for name, version in versions.items():
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        if distribution.version != version:
            continue
        checked += 1
        allowed = SpecifierSet(distribution.metadata.get("Requires-Python") or "")
        if f"{python}.9" not in allowed:
            problems.append(f"{name} {version} wants Python {allowed}")
        for requirement in map(Requirement, distribution.requires or ()):
            needed = canonicalize_name(requirement.name)
            marker = requirement.marker
            if marker is not None and not marker.evaluate(environment(python)):
                continue
            if needed in versions:
                if not requirement.specifier.contains(versions[needed], prereleases=True):
                    problems.append(f"{name} wants {requirement}, pinned is {versions[needed]}")
            elif not NOT_PINNED.fullmatch(needed):
                problems.append(f"{name} wants {requirement}, which is not pinned")
    if checked == 0:
        pytest.skip("none of the versions in constraints.txt is installed here")
    assert problems == []
