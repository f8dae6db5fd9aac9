import { Terminal } from '@xterm/xterm';
import { describe, expect, it } from 'vitest';
import { limitRepeats } from './repeats';

function screenOf(terminal: Terminal): string {
	const buffer = terminal.buffer.active;
	return Array.from({ length: terminal.rows }, (_, row) => buffer.getLine(buffer.viewportY + row)?.translateToString(true) ?? '')
		.join('\n')
		.trimEnd();
}

async function written(output: string): Promise<string> {
	const terminal = new Terminal({ cols: 20, rows: 5 });
	limitRepeats(terminal);
	await new Promise<void>((done) => terminal.write(output, done));
	const shown = screenOf(terminal);
	terminal.dispose();
	return shown;
}

describe('counts of control sequences', () => {
	it.each(['b', 'L', 'M', 'S', 'T', 'I', 'Z'])('ignores %s with a count that would freeze the page', async (final) => {
		const began = performance.now();
		expect(await written(`x\x1b[20000000${final}ok`)).toBe('xok');
		expect(await written(`x\x1b[2147483647${final}ok`)).toBe('xok');
		expect(performance.now() - began).toBeLessThan(2_000);
	});

	it('leaves what programs use', async () => {
		expect(await written('x\x1b[3bok')).toBe('xxxxok');
		expect(await written('one\r\ntwo\r\nthree\x1b[2S')).toBe('three');
		expect(await written('a\x1b[Ib')).toBe('a       b');
	});
});
