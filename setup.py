"""Installs axial_d2 beside the PyTorch and Detectron2 that are there; it brings neither.

Where PyTorch is importable (so without pip's build isolation) the C++ kernels for CPUs are built
for it. They are optional: without them, or a compiler, attention runs in plain PyTorch.
"""

import importlib.util
import sys
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
CSRC = Path("axial_d2", "csrc")
readme = ROOT / "README.md"
# What .onnx files are written and checked with.
EXPORT = ["onnx", "onnxruntime", "onnxscript"]


def cpu_kernels() -> dict:
    """Arguments of ``setup`` that build axial_d2/csrc."""
    if importlib.util.find_spec("torch") is None or sys.platform == "win32":
        return {}
    import torch
    from torch.utils.cpp_extension import BuildExtension, CppExtension

    # Without importing the package, which wants Detectron2.
    spec = importlib.util.spec_from_file_location(
        "cpp_library", ROOT / "axial_d2" / "ops" / "cpp_library.py"
    )
    library = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(library)
    extension = CppExtension(
        f"axial_d2.{library.module_name(torch.__version__)}",
        sorted(map(str, CSRC.glob("*.cpp"))),
        depends=sorted(map(str, CSRC.glob("*.h"))),
        extra_compile_args=["-std=c++17", "-O3", "-fopenmp", "-g0", "-Wno-psabi"],
        optional=True,
    )
    # ninja is another thing that may be missing; there are few files.
    build = BuildExtension.with_options(use_ninja=False, no_python_abi_suffix=True)
    return {"ext_modules": [extension], "cmdclass": {"build_ext": build}}


setup(
    name="axial_d2",
    version="0.1.0",
    description="Axial-DeepLab and its attention backbones for Detectron2",
    long_description=readme.read_text(encoding="utf-8") if readme.is_file() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=[*find_packages(include=["axial_d2", "axial_d2.*"]), "axial_d2.model_zoo.configs"],
    # The configs lie outside of the package, for those who read the checkout.
    package_dir={"axial_d2.model_zoo.configs": "configs"},
    package_data={"": ["README.md"], "axial_d2.model_zoo.configs": ["**/*.yaml"]},
    python_requires=">=3.10",
    # Not torch (pip might exchange the user's build), nor Detectron2 (the package index has
    # none under that name): axial_d2/compat.py says so where it is missing. Nor what needs torch
    # itself: that is an extra.
    install_requires=["numpy", "Pillow", "safetensors", "tqdm"],
    extras_require={
        "panoptic": ["panopticapi-lite"],
        "lookahead": ["pytorch-optimizer>=4.1"],
        "tensorflow": ["tensorflow-cpu"],
        "demo": ["opencv-python-headless"],
        "export": EXPORT,
        "dev": ["mypy", "pytest", "pytest-timeout", "ruff", *EXPORT],
    },
    **cpu_kernels(),
)
