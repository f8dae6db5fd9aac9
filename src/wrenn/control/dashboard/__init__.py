"""The dashboard: serves the files that `dashboard/` in the repository is built into.

`built/` is made by the build and is part of the wheel, but not of the repository. Pages of the API win over files of the dashboard.
"""

from wrenn.control.dashboard.built_files import BASE_SENTINEL, BUILT, BuiltDashboard, is_built
from wrenn.control.dashboard.routes import install

__all__ = ["BASE_SENTINEL", "BUILT", "BuiltDashboard", "install", "is_built"]
