"""The agent's API: `service.py` has the RPCs; `files.py`, `streams.py`, `execs.py` and `ports.py` the streams; `app.py` routes."""
