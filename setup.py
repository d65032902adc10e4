"""All is in pyproject.toml but one thing it cannot say: data folders outside the package go into the wheel."""

from __future__ import annotations

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

# The same names are in sb3_ppo_plus/resources.py, which finds the files again.
DATA_FOLDERS = ("zoo_configs", "tuning", "benchmark_suites", "gallery")
DATA_PATTERNS = ("*.yml", "*.md", "*.zip", "*.pkl", "*.onnx")


class BuildWithData(build_py):
    """Copy the data folders to ``sb3_ppo_plus/_data/``; an editable install reads the checkout."""

    def _data_files(self) -> dict[str, str]:
        """Map each destination in the build folder to its source, both as relative paths."""
        sources = (p for folder in DATA_FOLDERS for pattern in DATA_PATTERNS for p in Path(folder).rglob(pattern))
        return {str(Path(self.build_lib, "sb3_ppo_plus", "_data", source)): str(source) for source in sorted(sources)}

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        for destination, source in self._data_files().items():
            self.mkpath(str(Path(destination).parent))
            self.copy_file(source, destination)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        data = [] if self.editable_mode else list(self._data_files())
        return super().get_outputs(include_bytecode) + data

    def get_source_files(self) -> list[str]:
        # What this names goes into the source archive, from which a wheel may be built again.
        return super().get_source_files() + list(self._data_files().values())


setup(cmdclass={"build_py": BuildWithData})
