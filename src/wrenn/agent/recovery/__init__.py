"""Agent start-up: adopts running VMs of a former agent, completes or undoes interrupted operations, removes the rest."""

from wrenn.agent.recovery.recover import Recovery

__all__ = ["Recovery"]
