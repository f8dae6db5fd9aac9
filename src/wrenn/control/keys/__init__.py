"""API keys: `wrn_` + 32 hex digits, of which only the SHA-256 is stored."""

from wrenn.control.keys.last_used import LastUsed
from wrenn.control.keys.store import insert_key, replace_key
from wrenn.control.keys.tables import team_api_keys

__all__ = ["LastUsed", "insert_key", "replace_key", "team_api_keys"]
