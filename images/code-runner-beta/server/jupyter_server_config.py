"""Settings of the Jupyter server. The platform decides who reaches its port, so it asks for no token of its own."""

c = get_config()  # noqa: F821 - Jupyter defines it

c.ServerApp.ip = "127.0.0.1"
c.ServerApp.port = 8888
c.ServerApp.port_retries = 0
c.ServerApp.root_dir = "/home/user"
c.ServerApp.open_browser = False
c.ServerApp.token = ""
c.ServerApp.password = ""
# Requests come with the host name of the port, not with that of this machine.
c.ServerApp.allow_remote_access = True
# Without a token nothing else exempts programs from the check of a browser's cookie. WebSockets, over which code is run,
# are still refused for pages of other origins.
c.ServerApp.disable_check_xsrf = True
