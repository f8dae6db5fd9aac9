"""What callers do to sandboxes: create, pause, resume, delete, fork, and change limits, network and disk."""
