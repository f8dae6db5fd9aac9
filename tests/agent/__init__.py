"""The real agent over the simulated driver: registry, journal, verbs, garbage, recovery, without root or hypervisor."""
