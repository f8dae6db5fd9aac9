"""The kernels: `python` is IPython with charts and data of results, `javascript` and `bash` drive a program of their own (`script`)."""

import sys

# The debugger of ipykernel, which nobody attaches to, would be half of the time that a kernel takes to start.
sys.modules["debugpy"] = None  # type: ignore[assignment]
import ipykernel.kernelapp  # noqa: E402, F401

del sys.modules["debugpy"]
