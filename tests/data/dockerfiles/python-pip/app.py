"""A web application that a build is tested with."""

import bottle


@bottle.route("/")
def index():
    return "python answers\n"


bottle.run(host="0.0.0.0", port=8000)
