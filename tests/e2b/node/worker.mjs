// Runs scenarios with the Node SDK of e2b: requests and answers are as those of `tests/e2b/worker.py`.

import { createInterface } from 'node:readline'

// What a scenario or the SDK prints is no answer.
console.log = console.info = console.error

for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line)
  Object.assign(process.env, request.environment)
  let error = null
  try {
    const scenarios = await import(`./scenarios/${request.module}.mjs`)
    await scenarios[request.name]()
  } catch (failure) {
    error = String(failure?.stack ?? failure)
  }
  process.stdout.write(JSON.stringify({ error }) + '\n')
}
