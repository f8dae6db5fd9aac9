"""Server inside a sandbox that runs code in Jupyter kernels, with the protocol of e2b's code interpreter on port 49999.

`app` has the HTTP endpoints, `contexts` the kernels, `execution` one run of code, `results` what a run reports. `variables` has the
environment variables. The kernels are in `kernels/`. Needs nothing but what comes with `ipykernel` (its HTTP server is Tornado).
"""
