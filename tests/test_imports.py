"""Imports go one way, and importing the package registers components but no data set."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import axial_d2
import pytest

PACKAGE = Path(axial_d2.__file__).parent
MODEL = {"ops", "layers", "backbone", "heads", "meta_arch"}
# For each part of the package, the other parts it may import.
ALLOWED = {
    "ops": set(),
    "layers": {"ops"},
    "backbone": {"layers", "ops"},
    "heads": {"layers", "ops"},
    "postprocessing": set(),
    "meta_arch": {"heads", "backbone", "layers", "postprocessing"},
    "compat": set(),
}
# Parts that know no model; what else they import is their own affair.
WITHOUT_MODEL = (
    "data",
    "postprocessing",
    "evaluation",
    "solver",
    "visualization",
    "config",
    "weights",
)


def source_files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def part_of(path: Path) -> str:
    """First folder or module under the package: "ops", "solver", … or "__init__"."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_modules(path: Path) -> Iterator[str]:
    """Dotted names of everything a file imports, inside functions too, relative ones resolved."""
    package = ("axial_d2", *path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *([node.module] if node.module else [])))
            # ``from axial_d2 import heads`` imports a module as well.
            yield from (f"{module}.{alias.name}" for alias in node.names)


def imported_parts(path: Path) -> set[str]:
    names = (name.split(".") for name in imported_modules(path))
    parts = {name[1] for name in names if name[0] == "axial_d2" and len(name) > 1}
    return {part for part in parts if (PACKAGE / part).is_dir() or is_module(part)}


def is_module(part: str) -> bool:
    return (PACKAGE / f"{part}.py").is_file()


FILES = {str(path.relative_to(PACKAGE)): path for path in source_files()}


def test_the_scan_sees_imports() -> None:
    assert {"ops", "layers"} <= set(map(part_of, source_files()))
    assert imported_parts(PACKAGE / "layers" / "axial_attention.py") == {"layers", "ops"}
    assert {"backbone", "heads", "meta_arch", "config"} <= imported_parts(PACKAGE / "__init__.py")


@pytest.mark.parametrize("name", FILES)
def test_imports_go_one_way(name: str) -> None:
    path = FILES[name]
    part, imported = part_of(path), imported_parts(path)
    if part in ALLOWED:
        assert imported <= ALLOWED[part] | {part}
    if part in WITHOUT_MODEL:
        assert not imported & (MODEL | {"engine"})


@pytest.mark.parametrize("name", FILES)
def test_nothing_imports_the_scripts(name: str) -> None:
    roots = {module.split(".")[0] for module in imported_modules(FILES[name])}
    assert not roots & {"tools", "tests", "benchmarks"}


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("ops/")])
def test_ops_knows_torch_alone(name: str) -> None:
    roots = {module.split(".")[0] for module in imported_modules(FILES[name])}
    assert roots <= {"torch", "triton", "axial_d2", *sys.stdlib_module_names}


@pytest.mark.parametrize("name", FILES)
def test_no_star_imports(name: str) -> None:
    assert not [module for module in imported_modules(FILES[name]) if module.endswith(".*")]


PROGRAM = """
import axial_d2
import detectron2.data.datasets
from detectron2.data import DatasetCatalog
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY
from detectron2.projects.panoptic_deeplab.panoptic_seg import INS_EMBED_BRANCHES_REGISTRY

for registry, names in (
    (
        BACKBONE_REGISTRY,
        [
            "build_axial_resnet_backbone",
            "build_axial_resnet_fpn_backbone",
            "build_retinanet_axial_resnet_fpn_backbone",
            "build_vgg16_largefov_backbone",
        ],
    ),
    (META_ARCH_REGISTRY, ["AxialDeepLab", "ScaleAttentionSegmentor", "SlidingWindowSegmentor"]),
    (
        SEM_SEG_HEADS_REGISTRY,
        ["AxialDeepLabSemSegHead", "DualAttentionHead", "LinearSemSegHead"],
    ),
    (INS_EMBED_BRANCHES_REGISTRY, ["AxialDeepLabInsEmbedHead"]),
):
    for name in names:
        assert name in registry, name
print(*sorted(DatasetCatalog.list()), sep="\\n")
"""
# The bridges of ``compat`` alone, without the package that imports it.
PLAIN_PROGRAM = """
import importlib.util, sys

spec = importlib.util.spec_from_file_location("compat", sys.argv[1])
compat = importlib.util.module_from_spec(spec)
spec.loader.exec_module(compat)
compat.bridge_old_detectron2()
import detectron2.data.datasets
from detectron2.data import DatasetCatalog

assert "axial_d2" not in sys.modules
print(*sorted(DatasetCatalog.list()), sep="\\n")
"""


def run(program: str) -> list[str]:
    result = subprocess.run(
        [sys.executable, "-c", program, str(PACKAGE / "compat.py")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def test_importing_registers_components_and_no_data_set() -> None:
    with_plugin, plain = run(PROGRAM), run(PLAIN_PROGRAM)
    assert len(plain) > 10
    assert with_plugin == plain
