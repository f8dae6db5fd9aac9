// Sandboxes, commands and files with the Node SDK.

import assert from 'node:assert/strict'
import { Sandbox, SandboxNotFoundError } from 'e2b'

const TEMPLATE = 'minimal'

async function using(options, use) {
  const sandbox = await Sandbox.create(TEMPLATE, { timeoutMs: 120_000, ...options })
  try {
    return await use(sandbox)
  } finally {
    await sandbox.kill()
  }
}

export async function createAndKill() {
  const sandbox = await Sandbox.create(TEMPLATE, { timeoutMs: 60_000, metadata: { purpose: 'test' } })
  const info = await sandbox.getInfo()
  assert.equal(info.sandboxId, sandbox.sandboxId)
  assert.equal(info.state, 'running')
  assert.deepEqual(info.metadata, { purpose: 'test' })
  assert.ok(info.endAt - info.startedAt <= 61_000)
  assert.equal(await sandbox.kill(), true)
  assert.equal(await Sandbox.kill(sandbox.sandboxId), false)
  await assert.rejects(Sandbox.getInfo(sandbox.sandboxId), SandboxNotFoundError)
}

export async function listByMetadata() {
  const odd = 'a&b=c d/ü%41+'
  await using({ metadata: { 'odd key': odd } }, async (sandbox) => {
    const found = await Sandbox.list({ query: { metadata: { 'odd key': odd } } }).nextItems()
    assert.deepEqual(found.map((each) => each.sandboxId), [sandbox.sandboxId])
    const none = await Sandbox.list({ query: { metadata: { 'odd key': 'other' } } }).nextItems()
    assert.deepEqual(none, [])
  })
}

export async function setTimeoutOfASandbox() {
  await using({}, async (sandbox) => {
    await sandbox.setTimeout(600_000)
    const { endAt } = await sandbox.getInfo()
    assert.ok(endAt - Date.now() > 500_000)
  })
}

export async function pauseAndConnect() {
  await using({}, async (sandbox) => {
    assert.equal(await sandbox.pause(), true)
    assert.equal(await sandbox.pause(), false)
    assert.equal((await sandbox.getInfo()).state, 'paused')
    const again = await Sandbox.connect(sandbox.sandboxId, { timeoutMs: 60_000 })
    assert.equal((await again.getInfo()).state, 'running')
  })
}

export async function fork() {
  await using({}, async (sandbox) => {
    const copies = await sandbox.fork({ count: 2, timeoutMs: 60_000 })
    assert.equal(copies.length, 2)
    for (const copy of copies) assert.equal(await copy.kill(), true)
  })
}

export async function snapshots() {
  await using({}, async (sandbox) => {
    const snapshot = await sandbox.createSnapshot()
    const listed = await Sandbox.listSnapshots().nextItems()
    assert.ok(listed.some((each) => each.snapshotId === snapshot.snapshotId))
    const made = await Sandbox.create(snapshot.snapshotId, { timeoutMs: 60_000 })
    assert.equal(await made.kill(), true)
    assert.equal(await Sandbox.deleteSnapshot(snapshot.snapshotId), true)
    assert.equal(await Sandbox.deleteSnapshot(snapshot.snapshotId), false)
  })
}

export async function metrics() {
  await using({}, async (sandbox) => {
    const end = Date.now() + 20_000
    let found = []
    while (found.length === 0) {
      assert.ok(Date.now() < end)
      found = await sandbox.getMetrics()
      await new Promise((resolve) => setTimeout(resolve, 200))
    }
    assert.ok(found[0].memTotal > 0)
  })
}

export async function runCommands() {
  await using({ envs: { A: 'one' } }, async (sandbox) => {
    const result = await sandbox.commands.run('echo hello', { user: 'root' })
    assert.equal(result.stdout, 'hello\n')
    assert.equal(result.exitCode, 0)
  })
}

export async function writeAndReadFiles() {
  await using({}, async (sandbox) => {
    const path = '/tmp/a file.txt'
    await sandbox.files.write(path, 'text', { user: 'root' })
    assert.equal(await sandbox.files.read(path, { user: 'root' }), 'text')
    assert.equal(await sandbox.files.exists(path, { user: 'root' }), true)
    const entries = await sandbox.files.list('/tmp', { user: 'root' })
    assert.ok(entries.some((entry) => entry.path === path))
    await sandbox.files.remove(path, { user: 'root' })
    assert.equal(await sandbox.files.exists(path, { user: 'root' }), false)
  })
}
