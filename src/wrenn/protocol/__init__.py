"""Messages between processes: versioned, no I/O. `api/`: public REST, `host/`: control plane and agent, `guest/`: agent and envd."""
