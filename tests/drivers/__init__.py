"""One suite for every VM driver: what docs/design/drivers.md promises."""
