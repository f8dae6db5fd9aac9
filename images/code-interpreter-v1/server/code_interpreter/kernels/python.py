"""The Python kernel: IPython's, with variables of the sandbox and the run, charts of figures, and data of data frames."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Mapping
from typing import Any

from ipykernel.ipkernel import IPythonKernel
from ipykernel.kernelapp import IPKernelApp
from IPython.core.formatters import BaseFormatter, catch_format_error
from traitlets import ObjectName, Unicode

from code_interpreter.kernels.charts import chart_of
from code_interpreter.kernels.data_frames import columns_of
from code_interpreter.results import CHART_MIME, DATA_MIME
from code_interpreter.variables import SANDBOX_KEY, Applied

_SANDBOX_ID = "WRENN_SANDBOX_ID"


class _ChartFormatter(BaseFormatter):
    format_type = Unicode(CHART_MIME)
    print_method = ObjectName("_repr_chart_")
    _return_type = dict

    @catch_format_error
    def __call__(self, obj: Any) -> Any:
        """Return the chart of a figure. Not found by the registry of types, from which IPython removes figures when it sets up matplotlib."""
        kind = type(obj)
        return chart_of(obj) if (kind.__module__, kind.__name__) == ("matplotlib.figure", "Figure") else None


class _DataFormatter(BaseFormatter):
    format_type = Unicode(DATA_MIME)
    print_method = ObjectName("_repr_data_")
    _return_type = dict


class PythonKernel(IPythonKernel):
    """IPython's kernel with our formatters."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._variables = Applied(os.environ)
        self._is_seeded = False
        display = self.shell.display_formatter
        charts, data = _ChartFormatter(parent=display), _DataFormatter(parent=display)
        # By name, so that the library is imported only by code that uses it.
        for module in ("pandas.core.frame", "pandas"):
            data.for_type_by_name(module, "DataFrame", columns_of)
        display.formatters[CHART_MIME] = charts
        display.formatters[DATA_MIME] = data
        display.active_types = list(display.formatters)

    async def execute_request(self, stream: Any, ident: Any, parent: Any) -> None:
        """Run code with the variables in the request's metadata."""
        metadata = parent.get("metadata") or {}
        self._seed_in_sandbox(metadata.get(SANDBOX_KEY) or {})
        with self._variables.during(metadata):
            await super().execute_request(stream, ident, parent)

    def _seed_in_sandbox(self, variables: Mapping[str, Any]) -> None:
        """Seed the generators at the first run in a sandbox: all sandboxes of a template have copies of one kernel."""
        if not self._is_seeded and _SANDBOX_ID in variables:
            self._is_seeded = True
            random.seed()
            if (numpy := sys.modules.get("numpy")) is not None:
                numpy.random.seed()


if __name__ == "__main__":
    IPKernelApp.launch_instance(kernel_class=PythonKernel)
