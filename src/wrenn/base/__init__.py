"""What every layer may use: ids, errors, clock, units, undo, owned tasks, secrets, logging. Standard library only."""
