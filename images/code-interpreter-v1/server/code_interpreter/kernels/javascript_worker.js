// Runs code that `javascript.py` sends, in the evaluator of Node's REPL: names stay from run to run, and `await` may stand at the top.
"use strict";

const fs = require("node:fs");
const net = require("node:net");
const repl = require("node:repl");
const module_ = require("node:module");
const readline = require("node:readline");
const { PassThrough } = require("node:stream");
const { inspect } = require("node:util");

const [language, requestFd, messageFd] = [process.argv[2], Number(process.argv[3]), Number(process.argv[4])];
// What the code sees.
process.argv.length = 1;
const say = (message) => {
  let rest = Buffer.from(JSON.stringify(message) + "\n");
  while (rest.length > 0) rest = rest.subarray(fs.writeSync(messageFd, rest));
};

const server = repl.start({ prompt: "", input: new PassThrough(), output: new PassThrough().resume(), terminal: false, useGlobal: true, breakEvalOnSigint: true });
process.removeAllListeners("uncaughtException");
const evaluate = server.eval;
const environment = new Map();
server.removeAllListeners("exit");

function failed(error) {
  if (error?.code === "ERR_SCRIPT_EXECUTION_INTERRUPTED") {
    error = Object.assign(new Error("The run was interrupted"), { name: "KeyboardInterrupt", stack: "" });
  }
  const known = error instanceof Error || (error !== null && typeof error === "object" && "stack" in error);
  const stack = known ? String(error.stack) : inspect(error);
  const traceback = stack.split("\n").filter((line) => !line.includes(__filename) && !line.includes("(node:"));
  say({ type: "error", name: known ? String(error.name) : "Error", value: known ? String(error.message) : inspect(error), traceback });
}

let fail = null;
const uncaught = (error) => (fail ? fail(error) : process.stderr.write(`Uncaught ${inspect(error)}\n`));
// The REPL's evaluator gives errors to a domain of its own in some versions of Node.js.
server._domain?.removeAllListeners("error").on("error", uncaught);
let interrupt = () => {};
const interrupted = () => interrupt();
process.on("SIGINT", interrupted);
process.on("uncaughtException", uncaught);
process.on("unhandledRejection", (error) => process.stderr.write(`Uncaught (in promise) ${inspect(error)}\n`));

// `import a, { b as c } from "x"` at the beginning of a line, as the REPL has only `await import("x")`.
function withoutStaticImports(code) {
  return code.replace(/^[ \t]*import\s+(?:([\w$]+)\s*,?\s*)?(?:\*\s+as\s+([\w$]+)|\{([^}]*)\})?\s*(?:from\s*)?(["'][^"'\n]+["'])[ \t]*;?/gm, (text, main, all, some, from) => {
    if (!main && !all && some === undefined) return `await import(${from});`;
    const lines = [];
    if (main) lines.push(`var ${main} = (await import(${from})).default;`);
    if (all) lines.push(`var ${all} = await import(${from});`);
    if (some) lines.push(`var {${some.replace(/\btype\s+/g, "").replace(/\s+as\s+/g, ": ")}} = await import(${from});`);
    return lines.join(" ");
  });
}

function setVariables(sandbox, call) {
  for (const name of environment.keys()) if (!(name in sandbox)) { delete process.env[name]; environment.delete(name); }
  for (const [name, value] of Object.entries(sandbox)) {
    if (environment.get(name) !== value) { process.env[name] = value; environment.set(name, value); }
  }
  const former = Object.keys(call).map((name) => [name, process.env[name]]);
  Object.assign(process.env, call);
  return () => {
    for (const [name, value] of former) if (value === undefined) delete process.env[name]; else process.env[name] = value;
  };
}

function run({ code, sandbox, call }) {
  const restore = setVariables(sandbox, call);
  return new Promise((resolve) => {
    let ended = false;
    const end = (error, isError, result) => {
      if (ended) return;
      ended = true;
      interrupt = () => {};
      fail = null;
      if (isError) failed(error);
      else if (result !== undefined) say({ type: "result", text: typeof result === "string" ? `'${result}'` : inspect(result) });
      restore();
      say({ type: "end" });
      resolve();
    };
    interrupt = () => end(Object.assign(new Error("The run was interrupted"), { name: "KeyboardInterrupt" }), true);
    fail = (error) => end(error, true);
    try {
      if (language === "typescript") {
        if (!module_.stripTypeScriptTypes) throw new Error("TypeScript needs Node.js 22.13 or newer");
        code = module_.stripTypeScriptTypes(code, { mode: "transform" });
      }
      // While a script runs, the evaluator itself waits for the signal; a listener beside it would make the signal end the process.
      process.removeListener("SIGINT", interrupted);
      evaluate.call(server, withoutStaticImports(code) + "\n", server.context, "cell", (error, result) => {
        if (error instanceof repl.Recoverable) error = error.err;
        end(error, error !== null && error !== undefined, result);
      });
    } catch (error) {
      end(error, true);
    } finally {
      if (!process.listeners("SIGINT").includes(interrupted)) process.on("SIGINT", interrupted);
    }
  });
}

const requests = readline.createInterface({ input: new net.Socket({ fd: requestFd, readable: true, writable: false }) });
let last = Promise.resolve();
requests.on("line", (line) => { last = last.then(() => run(JSON.parse(line))); });
requests.on("close", () => process.exit(0));
