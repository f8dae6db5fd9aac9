"""The real agent over the simulated driver: registry, journal, operations, garbage, recovery, without root or hypervisor."""
