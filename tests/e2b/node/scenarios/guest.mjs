// What the Node SDK does inside a sandbox beyond commands and files, its network, and pauses that keep only the disk.

import assert from 'node:assert/strict'
import { Sandbox } from 'e2b'

const TEMPLATE = 'minimal'
const AS_ROOT = { user: 'root' }

async function using(use) {
  const sandbox = await Sandbox.create(TEMPLATE, { timeoutMs: 120_000 })
  try {
    return await use(sandbox)
  } finally {
    await sandbox.kill()
  }
}

async function until(isDone) {
  for (const end = Date.now() + 15_000; !isDone(); ) {
    assert.ok(Date.now() < end, 'it did not happen')
    await new Promise((done) => setTimeout(done, 20))
  }
}

export async function watchADirectory() {
  await using(async (sandbox) => {
    await sandbox.files.makeDir('/tmp/watched/below', AS_ROOT)
    const seen = []
    const watch = await sandbox.files.watchDir('/tmp/watched', (event) => void seen.push(event), {
      ...AS_ROOT,
      recursive: true,
    })
    await sandbox.files.write('/tmp/watched/below/file', 'text', AS_ROOT)
    await until(() => seen.some((event) => event.name === 'below/file' && event.type === 'write'))
    await watch.stop()
    const count = seen.length
    await sandbox.files.write('/tmp/watched/other', 'text', AS_ROOT)
    assert.equal(seen.length, count)
  })
}

export async function useATerminal() {
  await using(async (sandbox) => {
    let text = ''
    const decoder = new TextDecoder()
    const terminal = await sandbox.pty.create({
      cols: 80,
      rows: 24,
      envs: { OF_TERMINAL: '7' },
      onData: (data) => {
        text += decoder.decode(data)
      },
    })
    const say = (line) => sandbox.pty.sendInput(terminal.pid, new TextEncoder().encode(`${line}\n`))
    await say('echo $((20+22)) $OF_TERMINAL')
    await until(() => text.includes('42 7'))
    await sandbox.pty.resize(terminal.pid, { cols: 100, rows: 40 })
    await say('stty size; exit 0')
    await terminal.wait()
    assert.ok(text.includes('40 100'), text)
    assert.equal(await sandbox.pty.kill(terminal.pid), false)
  })
}

export async function changeTheNetwork() {
  await using(async (sandbox) => {
    await sandbox.updateNetwork({ allowOut: ['9.9.9.9'], denyOut: ['0.0.0.0/0'] })
    const address = (await sandbox.getInfo()).network
    assert.deepEqual([address.allowOut, address.denyOut], [['9.9.9.9'], ['0.0.0.0/0']])
    await sandbox.updateNetwork({ allowOut: ['*.example.com'], denyOut: ['0.0.0.0/0'] })
    const name = (await sandbox.getInfo()).network
    assert.deepEqual([name.allowOut, name.denyOut], [['*.example.com'], ['0.0.0.0/0']])
    await assert.rejects(sandbox.updateNetwork({ allowOut: ['example.com'] }), /all else is denied/)
  })
}

export async function pauseWithoutMemory() {
  await using(async (sandbox) => {
    await sandbox.files.write('/root/kept', 'on disk', AS_ROOT)
    assert.equal(await sandbox.pause({ keepMemory: false }), true)
    const again = await Sandbox.connect(sandbox.sandboxId, { timeoutMs: 60_000 })
    assert.equal(await again.files.read('/root/kept', AS_ROOT), 'on disk')
  })
}

export async function commitToARepository() {
  await using(async (sandbox) => {
    const path = `${(await sandbox.commands.run('pwd')).stdout.trim()}/repository`
    await sandbox.git.init(path, { initialBranch: 'main' })
    await sandbox.files.write(`${path}/file`, 'text')
    assert.equal((await sandbox.git.status(path)).isClean, false)
    await sandbox.git.add(path)
    await sandbox.git.commit(path, 'first', { authorName: 'Ada', authorEmail: 'ada@example.com' })
    const status = await sandbox.git.status(path)
    assert.deepEqual([status.isClean, status.currentBranch], [true, 'main'])
  })
}
