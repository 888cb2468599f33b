import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
PACKAGE = (ROOT / "d2_ctxseg" / "__init__.py").read_text(encoding="utf-8")
VERSION = re.search(r'^__version__ = "(.+)"$', PACKAGE, re.MULTILINE)[1]
# What the tests run on (.github/workflows/tests.yml), and constraints.txt can be installed on.
PYTHON_MINORS = (11, 12, 13, 14)
TEST_REQUIREMENTS = [
    "pytest>=8,<10",
    "pytest-xdist>=3.5,<4",
    "hypothesis>=6.100,<7",
    "onnx>=1.17,<2",
    "onnxruntime>=1.20,<2",
    "onnxscript>=0.5,<1",
    "ruff>=0.14,<1",
    "scipy>=1.11,<2",
    # The page is tested in a browser where the system has Chromium.
    "gradio>=6,<7",
    "playwright>=1.50,<2",
]

setup(
    name="d2_ctxseg",
    version=VERSION,
    description="Semantic segmentation in Detectron2 with classifiers that know the image",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3 :: Only",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in PYTHON_MINORS),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    keywords=["semantic segmentation", "detectron2", "pytorch", "context-aware classifier"],
    # The configs lie at the top of the repository, as in every Detectron2 project; a wheel has them
    # in the package, where model_zoo finds them by name.
    packages=[*find_packages(include=["d2_ctxseg", "d2_ctxseg.*"]), "d2_ctxseg.model_zoo.configs"],
    py_modules=["d2_ctxseg_cli"],
    entry_points={"console_scripts": ["d2-ctxseg=d2_ctxseg_cli:main"]},
    package_dir={"d2_ctxseg.model_zoo.configs": "configs"},
    # The embedded runtime is put on sys.path, not imported as d2_ctxseg.embedded: see runtime.py.
    package_data={
        "d2_ctxseg": [
            "py.typed",
            "data/**/*.yaml",
            "embedded/**/*.py",
            "embedded/**/*.yaml",
            "model_zoo/*.md",
            "model_zoo/trained/*",
            "commands/app/*.css",
            "commands/app/*.js",
            "comparison/*.html",
            "report/templates/*",
        ],
        "d2_ctxseg.model_zoo.configs": ["**/*.yaml", "lazy/*.py"],
    },
    install_requires=[
        "torch>=2.4",
        "torchvision>=0.19",
        "timm>=1.0.20,<2",
        "segmentation-models-pytorch>=0.5,<1",
        "fvcore>=0.1.5.post20221221",
        "cloudpickle>=2",
        "safetensors>=0.4",
        "tabulate>=0.9",
        "iopath>=0.1.9",
        "pycocotools>=2.0.7",
        "opencv-python>=4.8",
        "numpy>=1.26,<3",
        "jinja2>=3.1",
        "matplotlib>=3.7",
        "pillow>=10",
        "tensorboard>=2.14",
        "tqdm>=4.66",
    ],
    extras_require={
        "test": TEST_REQUIREMENTS,
        "demo": ["gradio>=6,<7"],
        # Cityscapes' own metrics.
        "cityscapes": ["cityscapesscripts>=1.5,<3"],
        # Side by side in benchmarks/evaluation.py.
        "benchmark": ["torchmetrics>=1.4,<2"],
        # For tools/export_model.py --format onnx.
        "export": ["onnx>=1.17,<2", "onnxruntime>=1.20,<2", "onnxscript>=0.5,<1"],
        # Of datasets whose labels are MATLAB files.
        "prepare": ["scipy>=1.11,<2"],
    },
)
