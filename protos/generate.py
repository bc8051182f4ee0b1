"""Generate the Python stubs beside the .proto files: `python -m protos.generate [DIR]`."""

import sys
import sysconfig
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ("protos/drafter.proto", "protos/verifier.proto")


def generate(out_dir: Path) -> None:
    """Write messages, services and their types below `out_dir`; raise RuntimeError on failure."""
    outputs = ("python", "grpc_python", "mypy", "mypy_grpc")
    well_known = files("grpc_tools") / "_proto"
    # protoc looks for plugins on PATH only; ours lie beside this interpreter.
    scripts = sysconfig.get_path("scripts")
    plugins = [f"--plugin={scripts}/protoc-gen-{o}" for o in ("mypy", "mypy_grpc")]
    command = ["protoc", f"-I{ROOT}", f"-I{well_known}", *plugins]
    command += [f"--{o}_out={out_dir}" for o in outputs]
    if protoc.main([*command, *PROTOS]) != 0:
        raise RuntimeError(f"protoc failed for {PROTOS}")


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
