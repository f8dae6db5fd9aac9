"""The HTTP endpoints."""

from __future__ import annotations

import json
from typing import Any

from tornado.iostream import StreamClosedError
from tornado.web import Application, Finish, RequestHandler

from code_interpreter import variables
from code_interpreter.contexts import Context, Contexts, UnknownContextError, UnsupportedError
from code_interpreter.execution import Execution

_KEEPALIVE_S = 5.0
_VARIABLES_LIMIT = 1000


def application(contexts: Contexts) -> Application:
    """Return the application over these contexts."""
    shared = {"contexts": contexts}
    return Application(
        [
            (r"/health", _Health),
            (r"/contexts", _AllContexts, shared),
            (r"/contexts/([^/]+)", _OneContext, shared),
            (r"/contexts/([^/]+)/restart", _Restart, shared),
            (r"/execute", _Execute, shared),
        ],
        log_function=lambda _handler: None,
    )


class _Handler(RequestHandler):
    def initialize(self, contexts: Contexts) -> None:
        self.contexts = contexts

    def body(self) -> dict[str, Any]:
        """Return the JSON object of the body; 400 for anything else."""
        try:
            found = json.loads(self.request.body or b"{}")
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            self.refuse(400, "The body must be a JSON object")
        return found

    def text_field(self, body: dict[str, Any], name: str) -> str | None:
        value = body.get(name)
        if value is not None and not isinstance(value, str):
            self.refuse(400, f"{name} must be a text")
        return value

    def refuse(self, status: int, text: str) -> None:
        """End the request with a text. Does not return."""
        self.set_status(status)
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(text)
        raise Finish

    def write_error(self, _status: int, **_: Any) -> None:
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(self._reason)

    async def context(self, context_id: str) -> Context:
        try:
            return self.contexts.get(context_id)
        except UnknownContextError as error:
            self.refuse(404, str(error))
            raise


class _Health(RequestHandler):
    def get(self) -> None:
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish("OK")


class _AllContexts(_Handler):
    def get(self) -> None:
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps([context.to_json() for context in self.contexts.all()]))

    async def post(self) -> None:
        body = self.body()
        language, cwd = self.text_field(body, "language"), self.text_field(body, "cwd")
        try:
            context = await self.contexts.create(language or "python", cwd)
        except UnsupportedError as error:
            self.refuse(400, str(error))
            return
        self.finish(context.to_json())


class _OneContext(_Handler):
    async def delete(self, context_id: str) -> None:
        await self.context(context_id)
        await self.contexts.remove(context_id)
        self.set_status(204)
        self.finish()


class _Restart(_Handler):
    async def post(self, context_id: str) -> None:
        await self.context(context_id)
        await self.contexts.restart(context_id)
        self.set_status(204)
        self.finish()


class _Execute(_Handler):
    _execution: Execution | None = None

    async def post(self) -> None:
        body = self.body()
        code = self.text_field(body, "code")
        context_id, language = self.text_field(body, "context_id"), self.text_field(body, "language")
        given = body.get("env_vars") or {}
        if code is None:
            self.refuse(400, "code is missing")
            return
        if context_id and language:
            self.refuse(400, "Only one of context_id or language can be provided")
        if not isinstance(given, dict) or len(given) > _VARIABLES_LIMIT:
            self.refuse(400, f"env_vars must be an object of at most {_VARIABLES_LIMIT} texts")
        if context_id:
            context = await self.context(context_id)
        else:
            try:
                context = await self.contexts.default(language or "python")
            except UnsupportedError as error:
                self.refuse(400, str(error))
                return
        self.set_header("Content-Type", "application/x-ndjson")
        execution = self._execution = Execution(context, code, variables.checked(given))
        execution.begin()
        try:
            async for line in execution.lines(silence_s=_KEEPALIVE_S):
                self.write(line)
                await self.flush()
        except StreamClosedError:
            execution.abandon()
            return
        self.finish()

    def on_connection_close(self) -> None:
        if self._execution is not None:
            self._execution.abandon()
