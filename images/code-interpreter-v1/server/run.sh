#!/bin/sh
# Keeps the server running: a program of the sandbox may kill it.
while :; do
    PYTHONPATH=/usr/local/lib/code-interpreter /usr/bin/python3 -m code_interpreter
    sleep 0.2
done
