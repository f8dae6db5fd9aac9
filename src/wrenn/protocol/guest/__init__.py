"""Agent ↔ guest agent: the messages of envd's services, generated from `proto/`."""
