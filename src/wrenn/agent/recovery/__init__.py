"""What a new agent does with what a former one left: adopt what runs, take down what is half done, sweep the rest."""

from wrenn.agent.recovery.recover import recover

__all__ = ["recover"]
