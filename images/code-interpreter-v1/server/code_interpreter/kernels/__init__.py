"""The kernels: `python` is IPython with charts and data of results, `javascript` and `bash` drive a program of their own (`script`)."""
