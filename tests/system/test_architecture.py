"""The rules that no single module can keep alone: generated code, imports, dangerous calls."""

import ast
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from protos.generate import generate
from tests.support import ROOT as ROOT

PACKAGES = ("protos", "rpc", "drafter", "verifier", "lookahead")
SCRIPTS = Path(sysconfig.get_path("scripts"))
# What turns data into code; none of it is needed here.
FORBIDDEN_MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_METHODS = {
    ("torch", "load"),
    ("yaml", "load"),
    ("yaml", "unsafe_load"),
    ("os", "system"),
    ("os", "popen"),
}


def sources() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def dangers(tree: ast.AST) -> Iterator[str]:
    """Name every dangerous import and call in a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] in FORBIDDEN_MODULES)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            imported = {(module, alias.name) for alias in node.names}
            if module.split(".")[0] in FORBIDDEN_MODULES or imported & FORBIDDEN_METHODS:
                yield module
        elif isinstance(node, ast.Call):
            yield from call_dangers(node)


def call_dangers(call: ast.Call) -> Iterator[str]:
    match call.func:
        case ast.Name(id=name) if name in FORBIDDEN_CALLS:
            yield name
        case ast.Attribute(value=ast.Name(id=owner), attr=name):
            if (owner, name) in FORBIDDEN_METHODS:
                yield f"{owner}.{name}"
    for keyword in call.keywords:
        allows = not (isinstance(keyword.value, ast.Constant) and keyword.value.value is False)
        if keyword.arg in ("shell", "allow_pickle", "trust_remote_code") and allows:
            yield f"{keyword.arg}="


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_turns_data_into_code(path: Path) -> None:
    assert list(dangers(ast.parse(path.read_text()))) == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "import joblib.numpy_pickle",
        "from marshal import loads",
        "from torch import load",
        "eval('1')",
        "exec(text)",
        "x = torch.load(path)",
        "yaml.load(text)",
        "subprocess.run('ls', shell=True)",
        "np.load(path, allow_pickle=True)",
        "AutoModel.from_pretrained(name, trust_remote_code=flag)",
    ],
)
def test_the_scan_finds_what_it_looks_for(code: str) -> None:
    assert list(dangers(ast.parse(code))) != []


def test_every_module_begins_with_a_docstring() -> None:
    silent = [path for path in sources() if "_pb2" not in path.name and not docstring(path)]
    assert silent == []


def docstring(path: Path) -> str | None:
    return ast.get_docstring(ast.parse(path.read_text()))


def test_package_files_hold_a_docstring_only() -> None:
    exporting = {ROOT / "lookahead/__init__.py", ROOT / "lookahead/client/__init__.py"}
    for path in {path for path in sources() if path.name == "__init__.py"} - exporting:
        assert len(ast.parse(path.read_text()).body) == 1, path


@pytest.mark.slow
def test_the_stubs_equal_a_fresh_generation(tmp_path: Path) -> None:
    generate(tmp_path)
    fresh = {path.name: path.read_text() for path in (tmp_path / "protos").iterdir()}
    committed = {path.name: path.read_text() for path in (ROOT / "protos").glob("*_pb2*.py*")}
    assert sorted(fresh) == sorted(committed)
    for name, text in fresh.items():
        assert committed[name] == text, f"{name} is stale: run `make protos`"


@pytest.mark.slow
@pytest.mark.parametrize("command", [("buf", "lint", "protos"), ("lint-imports",)])
def test_the_linters_are_content(command: tuple[str, ...]) -> None:
    done = subprocess.run(
        [SCRIPTS / command[0], *command[1:]], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("lookahead.cli", ["torch", "transformers", "numba"]),
        ("lookahead.client.client", ["torch", "transformers", "numba", "redis"]),
        ("rpc.server", ["torch", "transformers", "numba", "redis"]),
        ("drafter.__main__", ["torch", "transformers"]),
    ],
)
def test_importing_stays_light(module: str, heavy: list[str]) -> None:
    """Importing a module does not import what only others need, in a process of its own."""
    code = f"import sys, {module}; print(*sorted(set(sys.argv[1:]) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code, *heavy], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_the_drafter_never_imports_torch() -> None:
    """Not even lazily, inside a function."""
    for path in sorted((ROOT / "drafter").rglob("*.py")):
        assert not imported(path) & {"torch", "transformers"}, path


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("numba", ("drafter/kernels/", "verifier/kernels/", "rpc/kernel_cache.py")),
        ("redis", ("drafter/log/",)),
        ("grpc", ("rpc/", "drafter/api/", "verifier/api/", "verifier/speculation/draft",
                  "lookahead/", "protos/")),
    ],
)  # fmt: skip
def test_libraries_stay_where_they_belong(module: str, allowed: tuple[str, ...]) -> None:
    users = [str(path.relative_to(ROOT)) for path in sources() if module in imported(path)]
    assert [user for user in users if not user.startswith(allowed)] == []


def imported(path: Path) -> set[str]:
    """Name the top-level packages that a file imports anywhere."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add((node.module or "").split(".")[0])
    return found
