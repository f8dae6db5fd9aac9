"""What the agents of hosts ask of the control plane: registration, refresh of their credentials, heartbeats."""

from wrenn.control.enrolment.routes import router
from wrenn.control.enrolment.service import Enrolment

__all__ = ["Enrolment", "router"]
