"""The agent's edge: translates and delegates. `service.py` the calls, `files.py` and `streams.py` the streams, `app.py` all on one port."""
