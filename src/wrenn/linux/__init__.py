"""The only code that runs commands or calls the kernel."""
