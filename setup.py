"""Installs axial_d2 beside the PyTorch and Detectron2 that are there; it brings neither."""

from pathlib import Path

from setuptools import find_packages, setup

# What .onnx files are written and checked with.
EXPORT = ["onnx", "onnxruntime", "onnxscript"]
readme = Path(__file__).parent / "README.md"

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
)
