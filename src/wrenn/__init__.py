"""wrenn: sandboxes for AI agents and developers, in small virtual machines.

`from wrenn import Sandbox, AsyncSandbox` is the SDK; the names are loaded on first use, so that `import wrenn` is quick.
"""
