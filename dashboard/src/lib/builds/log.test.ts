import { describe, expect, it } from 'vitest';
import { addEvent, emptyLog, OUTPUT_LIMIT } from './log';

const event = (type: string, data: object) => ({ id: '1', type, data: JSON.stringify(data) });

describe('the log of a build', () => {
	it('has steps with their output, result and time', () => {
		const log = emptyLog();
		addEvent(log, event('step', { step: 1, total: 2, phase: 'recipe', cmd: 'RUN true' }));
		addEvent(log, event('output', { step: 1, stream: 'stdout', text: 'one\n' }));
		addEvent(log, event('output', { step: 1, stream: 'stderr', text: 'two\n' }));
		addEvent(log, event('done', { step: 1, exit: 0, ok: true, elapsed_ms: 40, cached: false }));
		addEvent(log, event('step', { step: 2, total: 2, phase: 'recipe', cmd: 'RUN false' }));
		addEvent(log, event('done', { step: 2, exit: 1, ok: false, elapsed_ms: 7, cached: false }));
		addEvent(log, event('end', { status: 'failed', error: 'step 2' }));
		expect(log.steps.map((step) => [step.state, step.exit, step.output, step.elapsedMs])).toEqual([
			['success', 0, 'one\ntwo\n', 40],
			['failed', 1, '', 7]
		]);
		expect(log.end).toEqual({ status: 'failed', error: 'step 2' });
	});

	it('keeps the end of long output, and says so', () => {
		const log = emptyLog();
		addEvent(log, event('step', { step: 1, phase: 'recipe', cmd: 'RUN yes' }));
		addEvent(log, event('output', { step: 1, stream: 'stdout', text: 'x'.repeat(OUTPUT_LIMIT) }));
		expect(log.steps[0]?.isCut).toBe(false);
		addEvent(log, event('output', { step: 1, stream: 'stdout', text: 'end' }));
		expect(log.steps[0]?.output.length).toBe(OUTPUT_LIMIT);
		expect(log.steps[0]?.output.endsWith('xend')).toBe(true);
		expect(log.steps[0]?.isCut).toBe(true);
	});

	it('gives the output of a repeated attempt to its own step', () => {
		const log = emptyLog();
		for (const text of ['first', 'second']) {
			addEvent(log, event('step', { step: 1, phase: 'recipe', cmd: 'RUN true' }));
			addEvent(log, event('output', { step: 1, stream: 'stdout', text }));
		}
		expect(log.steps.map((step) => step.output)).toEqual(['first', 'second']);
	});

	it('ignores events and steps that it does not know', () => {
		const log = emptyLog();
		addEvent(log, event('later', { step: 1 }));
		addEvent(log, event('output', { step: 9, stream: 'stdout', text: 'x' }));
		expect(log).toEqual(emptyLog());
	});
});
