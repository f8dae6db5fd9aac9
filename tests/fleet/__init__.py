"""Several hosts and replicas of the control plane on one machine."""
