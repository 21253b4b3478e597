"""The wheel carries what a checkout has at its top: setuptools' own rules reach only files inside packages.

Everything else about the package is in pyproject.toml.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

CARRIED = ("datasets", "results/published", "results/nano/checkpoints")


class WithAssets(build_py):
    """Copies them to bench/_assets, where bench/assets.py looks first; not for an editable install."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for folder in CARRIED:
                target = Path(self.build_lib, "bench", "_assets", folder)
                shutil.rmtree(target, ignore_errors=True)
                shutil.copytree(folder, target)


setup(cmdclass={"build_py": WithAssets})
