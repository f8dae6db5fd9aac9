"""What a new agent does with what a former one left: adopt what runs, settle what is half done, sweep the rest."""

from wrenn.agent.recovery.recover import Recovery

__all__ = ["Recovery"]
