#!/bin/sh
# Keeps the server running: a program of the sandbox may kill it.
while :; do
    /usr/bin/jupyter-server --config=/usr/local/lib/code-runner/jupyter_server_config.py
    sleep 0.2
done
