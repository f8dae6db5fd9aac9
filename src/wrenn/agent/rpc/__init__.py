"""The agent's edge: translates and delegates. `service.py` the calls, `files.py` the byte streams, `app.py` both on one port."""
