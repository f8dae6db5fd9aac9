"""Runs `openai_agent.py` with a model that takes the steps of the environment variable `STEPS`. Prints what it was told, and its answer."""

import asyncio
import json
import os

import openai_agent
from agents import set_tracing_disabled
from agents.testing import ScriptedModel, assistant_message, function_call


async def main() -> None:
    set_tracing_disabled(True)
    steps = [
        [function_call(name, json.dumps(arguments), call_id=f"call{number}")]
        for number, (name, arguments) in enumerate(json.loads(os.environ["STEPS"]))
    ]
    model = ScriptedModel([*steps, [assistant_message("done")]])
    print(await openai_agent.solve("Which number?", model=model))
    assert model.last_call is not None
    print(json.dumps(model.last_call.input))


asyncio.run(main())
