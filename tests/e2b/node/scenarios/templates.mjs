// Templates built by the Node SDK's builder.

import assert from 'node:assert/strict'
import { mkdtempSync, mkdirSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { randomUUID } from 'node:crypto'
import { Sandbox, Template } from 'e2b'

const BASE = 'minimal'
const newName = () => `built-${randomUUID().slice(0, 8)}`

export async function buildWithStepsAndFiles() {
  const folder = mkdtempSync(join(tmpdir(), 'context-'))
  mkdirSync(join(folder, 'app'))
  writeFileSync(join(folder, 'app/main.txt'), 'main\n')
  const name = newName()
  const messages = []
  const template = Template({ fileContextPath: folder })
    .fromTemplate(BASE)
    .setEnvs({ GREETING: 'hello' })
    .setWorkdir(`/tmp/${name}`)
    .copy('app', 'src/')
    .runCmd('echo $GREETING > greeting.txt')
  const info = await Template.build(template, name, { onBuildLogs: (entry) => messages.push(entry.message) })
  assert.equal(info.name, name)
  assert.ok(messages.some((message) => message.includes('echo $GREETING')))
  assert.equal(await Template.exists(name), true)
  assert.equal(await Template.exists(newName()), false)
  const sandbox = await Sandbox.create(name, { timeoutMs: 60_000 })
  try {
    const found = await sandbox.commands.run(`cd /tmp/${name} && cat greeting.txt src/main.txt`)
    assert.equal(found.stdout, 'hello\nmain\n')
  } finally {
    await sandbox.kill()
  }
  const assigned = await Template.assignTags(name, ['v1'])
  assert.deepEqual(assigned.tags, ['v1'])
  assert.deepEqual((await Template.getTags(name)).map((each) => each.tag).sort(), ['default', 'v1'])
  await Template.removeTags(name, ['v1'])
}

export async function aFailedStepNamesItsCommand() {
  const template = Template().fromTemplate(BASE).runCmd('exit 7')
  await assert.rejects(Template.build(template, newName()), (error) => {
    assert.match(String(error), /failed to run command 'exit 7'/)
    return true
  })
}
