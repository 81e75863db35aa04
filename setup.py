"""What pyproject.toml cannot say: a wheel carries the authored data and the templates of pages."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithData(build_py):
    """Copies what `monitorlab.storage.sources.project_root` finds in an installed package."""

    def run(self) -> None:
        """Build as ever, then copy."""
        super().run()
        if not self.editable_mode:
            project = Path(self.build_lib) / "monitorlab" / "project"
            shutil.rmtree(project, ignore_errors=True)  # of an earlier build
            generated = shutil.ignore_patterns("cache", "runs")
            for folder in ("data", "reports/template"):
                shutil.copytree(folder, project / folder, ignore=generated)


setup(cmdclass={"build_py": BuildWithData})
