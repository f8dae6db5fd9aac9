"""`wrenn agent join`: makes a host of this machine. `command.py` is the command, `join.py` its steps, `service.py` starts the agent."""
