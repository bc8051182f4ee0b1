"""Python and packages, compared with what this distribution declares."""

import platform
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, distribution, metadata, version

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from lookahead.doctor.finding import Finding, ok, problem

NAME = "lookahead-serving"
EXTRAS = ("drafter", "verifier", "gateway")
Version = Callable[[str], str]  # of an installed package; PackageNotFoundError without one


def check_python(have: str = platform.python_version()) -> Finding:
    """Whether this version of Python is supported."""
    want = metadata(NAME)["Requires-Python"]
    if SpecifierSet(want).contains(have, prereleases=True):
        return ok("python", have)
    return problem(
        "python", f"{have}, but {want} is needed", "create the environment with a supported Python"
    )


def check_packages(installed: Version = version) -> list[Finding]:
    """Whether all packages of the services are installed in supported versions."""
    wrong = list(_wrong(installed))
    if wrong:
        return wrong
    return [ok("packages", f"{len(list(_requirements()))} packages, all in supported versions")]


def _wrong(installed: Version) -> Iterator[Finding]:
    for requirement in _requirements():
        want = f"{requirement.name}{requirement.specifier}"
        do = f"pip install '{want}'"
        try:
            have = installed(requirement.name)
        except PackageNotFoundError:
            yield problem("packages", f"{requirement.name} is not installed", do)
            continue
        if not requirement.specifier.contains(have, prereleases=True):
            yield problem("packages", f"{requirement.name} {have} is installed", do)


def _requirements() -> Iterator[Requirement]:
    for line in distribution(NAME).requires or []:
        requirement = Requirement(line)
        environments = [{"extra": extra} for extra in ("", *EXTRAS)]
        if requirement.marker is None or any(map(requirement.marker.evaluate, environments)):
            yield requirement
