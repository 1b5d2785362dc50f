"""Builds the one distribution `saetools` out of shared/ and tools/*, from what their own pyproject.toml files say."""

import tomllib
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
FOLDERS = ["shared", *sorted(path.parent.as_posix() for path in Path().glob("tools/*/pyproject.toml"))]


def read(folder: str) -> dict:
    return tomllib.loads((ROOT / folder / "pyproject.toml").read_text(encoding="utf-8"))


parts = {folder: read(folder) for folder in FOLDERS}
shared = parts["shared"]["project"]
package_dir, package_data, dependencies, scripts = {}, {}, [], []
for folder, part in parts.items():
    for name in find_packages(folder, include=part["tool"]["setuptools"]["packages"]["find"]["include"]):
        package_dir[name] = f"{folder}/{name.replace('.', '/')}"
    package_data |= part["tool"]["setuptools"].get("package-data", {})
    dependencies += part["project"]["dependencies"]
    scripts += [f"{name} = {target}" for name, target in part["project"].get("scripts", {}).items()]
# Extras of the shared package that a tool asks for are dependencies of the whole.
used = {
    extra
    for extra in shared["optional-dependencies"]
    for one in dependencies
    if one.startswith("saetools[") and extra in one
}
dependencies += [one for extra in sorted(used) for one in shared["optional-dependencies"][extra]]

setup(
    version=shared["version"],
    python_requires=shared["requires-python"],
    classifiers=shared["classifiers"],
    packages=sorted(package_dir),
    package_dir=package_dir,
    package_data=package_data,
    install_requires=sorted({one for one in dependencies if not one.startswith("saetools")}),
    extras_require=shared["optional-dependencies"],
    entry_points={"console_scripts": sorted(scripts)},
)
