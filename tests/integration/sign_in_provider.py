"""A sign-in provider as a process of its own: OpenID Connect by Authlib's server, and what GitHub has instead.

Started with a port and the redirect address that it knows. Whoever comes is let in as the user whom `POST /test/user` set;
`POST /test/switch` makes it misbehave.
"""

from __future__ import annotations

import hashlib
import sys
import time
from base64 import urlsafe_b64encode
from typing import Any, cast

import uvicorn
from authlib.integrations.flask_oauth2 import AuthorizationServer, ResourceProtector, current_token
from authlib.oauth2.rfc6749 import AuthorizationCodeMixin, ClientMixin, TokenMixin, grants
from authlib.oauth2.rfc6750 import BearerTokenValidator
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oidc.core import OpenIDCode, UserInfo
from flask import Flask, Response, jsonify, redirect, request
from joserfc.jwk import KeySet, RSAKey

PORT, REDIRECTS = int(sys.argv[1]), sys.argv[2].split(",")
ISSUER = f"http://127.0.0.1:{PORT}"
CLIENT_ID, CLIENT_SECRET = "wrenn", "provider secret"
KEY = RSAKey.generate_key(2048, {"kid": "one", "use": "sig", "alg": "RS256"})
OTHER_KEY = RSAKey.generate_key(2048, {"kid": "one", "use": "sig", "alg": "RS256"})

app = Flask(__name__)
app.config["OAUTH2_SCOPES_SUPPORTED"] = ["openid", "email", "profile"]
user: dict[str, Any] = {"sub": "1", "email": "nobody@example.com", "name": "Nobody"}
switches: dict[str, Any] = {}
codes: dict[str, Code] = {}
tokens: dict[str, Token] = {}


class Client(ClientMixin):
    """The platform."""

    client_id = CLIENT_ID

    def get_client_id(self) -> str:
        return CLIENT_ID

    def get_default_redirect_uri(self) -> str:
        return REDIRECTS[0]

    def get_allowed_scope(self, scope: Any) -> Any:
        return scope

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        return redirect_uri in REDIRECTS

    def check_client_secret(self, client_secret: str) -> bool:
        return client_secret == CLIENT_SECRET

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return method == "client_secret_basic"

    def check_response_type(self, response_type: str) -> bool:
        return response_type == "code"

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type == "authorization_code"


class Code(AuthorizationCodeMixin):
    """One sign-in."""

    def __init__(self, who: dict[str, Any], payload: Any) -> None:
        self.user = who
        self.payload = payload.data
        self.code_challenge = payload.data.get("code_challenge")
        self.code_challenge_method = payload.data.get("code_challenge_method")
        self.at = int(time.time())

    def get_redirect_uri(self) -> str:
        return self.payload["redirect_uri"]

    def get_scope(self) -> str:
        return self.payload["scope"]

    def get_nonce(self) -> str | None:
        return switches.get("nonce", self.payload.get("nonce"))

    def get_auth_time(self) -> int:
        return self.at

    def get_acr(self) -> None:
        return None

    def get_amr(self) -> None:
        return None


class Token(TokenMixin):
    """What the user's data are read with."""

    def __init__(self, who: dict[str, Any], scope: str) -> None:
        self.user = who
        self.scope = scope

    def check_client(self, client: Any) -> bool:
        return True

    def get_scope(self) -> str:
        return self.scope

    def get_expires_in(self) -> int:
        return 60

    def is_expired(self) -> bool:
        return False

    def is_revoked(self) -> bool:
        return False


class CodeGrant(grants.AuthorizationCodeGrant):
    """The one flow that there is."""

    TOKEN_ENDPOINT_AUTH_METHODS = ("client_secret_basic",)

    def save_authorization_code(self, code: str, request: Any) -> None:
        codes[code] = Code(request.user, request.payload)

    def query_authorization_code(self, code: str, client: Any) -> Code | None:
        return codes.get(code)

    def delete_authorization_code(self, authorization_code: Code) -> None:
        for text, code in list(codes.items()):
            if code is authorization_code:
                del codes[text]

    def authenticate_user(self, authorization_code: Code) -> dict[str, Any]:
        return authorization_code.user


class Identity(OpenIDCode):
    """The identity token."""

    def exists_nonce(self, nonce: str, request: Any) -> bool:
        return False

    def resolve_client_private_key(self, client: Any) -> KeySet:
        return KeySet([OTHER_KEY if "key" in switches else KEY])

    def get_encode_header(self, client: Any) -> dict[str, str]:
        return {"alg": "RS256", "kid": "one"}

    def get_client_claims(self, client: Any) -> dict[str, Any]:
        return {
            "iss": switches.get("iss", ISSUER),
            "aud": switches.get("aud", [CLIENT_ID]),
            **({"exp": 1} if "exp" in switches else {}),
        }

    def generate_user_info(self, user: dict[str, Any], scope: str) -> UserInfo:
        shown = {"sub": user["sub"]} if "thin" in switches else user
        return UserInfo(**shown)


class Validator(BearerTokenValidator):
    """For the user's data."""

    def authenticate_token(self, token_string: str) -> Token | None:
        return tokens.get(token_string)


def save_token(token: dict[str, Any], request: Any) -> None:
    tokens[token["access_token"]] = Token(request.user, token["scope"])


def query_client(client_id: str) -> Client:
    return Client()


server: Any = AuthorizationServer(app, query_client=query_client, save_token=save_token)
server.register_grant(CodeGrant, [Identity(require_nonce=True), CodeChallenge(required=True)])
protect: Any = ResourceProtector()
protect.register_token_validator(Validator())


@app.get("/.well-known/openid-configuration")
def discovery() -> Response:
    return jsonify(
        issuer=ISSUER,
        authorization_endpoint=f"{ISSUER}/authorize",
        token_endpoint=f"{ISSUER}/token",
        jwks_uri=f"{ISSUER}/jwks",
        userinfo_endpoint=f"{ISSUER}/userinfo",
    )


@app.get("/jwks")
def jwks() -> Response:
    return jsonify(keys=[KEY.as_dict(private=False)])


@app.get("/authorize")
def authorize() -> Any:
    if "deny" in switches:
        query = f"error=access_denied&state={request.args['state']}"
        return redirect(f"{request.args['redirect_uri']}?{query}")
    return server.create_authorization_response(grant_user=dict(user))


@app.post("/token")
def token() -> Any:
    return server.create_token_response()


@app.get("/userinfo")
@protect("openid")
def userinfo() -> Response:
    return jsonify(current_token.user)


@app.get("/login/oauth/authorize")
def github_authorize() -> Any:
    args = request.args
    assert args["client_id"] == CLIENT_ID
    assert args["redirect_uri"] in REDIRECTS
    text = f"gh{len(codes)}-{time.time_ns()}"
    codes[text] = Code(dict(user), type("Payload", (), {"data": dict(args)}))
    return redirect(f"{args['redirect_uri']}?code={text}&state={args['state']}")


@app.post("/login/oauth/access_token")
def github_token() -> Response:
    """As GitHub: also its refusals have the status 200."""
    form = request.form
    code = codes.pop(form["code"], None)
    if form["client_secret"] != CLIENT_SECRET or code is None:
        return jsonify(error="bad_verification_code")
    digest = hashlib.sha256(form["code_verifier"].encode()).digest()
    if urlsafe_b64encode(digest).decode().rstrip("=") != code.code_challenge:
        return jsonify(error="bad_verification_code")
    text = f"gho_{time.time_ns()}"
    tokens[text] = Token(code.user, "user:email")
    return jsonify(access_token=text, token_type="bearer", scope="user:email")


def github_user() -> dict[str, Any]:
    return tokens[request.headers["authorization"].removeprefix("Bearer ")].user


@app.get("/api/user")
def github_profile() -> Response:
    who = github_user()
    return jsonify(id=int(who["sub"]), login="octo", name=who.get("name"), email="whatever@example.com")


@app.get("/api/user/emails")
def github_emails() -> Response:
    who = github_user()
    verified = who.get("email_verified", True)
    return jsonify(
        [
            {"email": "second@example.com", "primary": False, "verified": True},
            {"email": who["email"], "primary": True, "verified": verified},
        ]
    )


@app.post("/test/user")
def set_user() -> Response:
    user.clear()
    user.update(request.get_json())
    return Response(status=204)


@app.post("/test/switch")
def set_switch() -> Response:
    switches.clear()
    switches.update(request.get_json())
    return Response(status=204)


if __name__ == "__main__":
    # Flask's own server resets connections now and then.
    uvicorn.run(cast("Any", app), host="127.0.0.1", port=PORT, interface="wsgi", log_level="error")
