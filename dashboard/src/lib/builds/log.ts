/** The log of a build as its stream tells it: steps with their output. Pure; `follow.svelte.ts` reads the stream. */
import type { StreamEvent } from '$lib/api/event-stream';

export interface LogStep {
	number: number;
	phase: string;
	command: string;
	/** The end of what it wrote, at most `OUTPUT_LIMIT` characters. */
	output: string;
	isCut: boolean;
	state: 'running' | 'success' | 'failed' | 'cached';
	exit: number | null;
	elapsedMs: number;
}

export interface Log {
	steps: LogStep[];
	notes: string[];
	/** Null: the build has not ended. */
	end: { status: string; error: string | null } | null;
}

/** The server keeps more of a step, but a page with all of it is slow. */
export const OUTPUT_LIMIT = 200_000;
const NOTES_LIMIT = 200;

export const emptyLog = (): Log => ({ steps: [], notes: [], end: null });

/** Add an event. Steps that change are new objects, so what shows the others need not be made anew. */
export function addEvent(log: Log, event: StreamEvent): void {
	const data = JSON.parse(event.data) as Record<string, unknown>;
	const number = Number(data['step']);
	const change = (fields: (step: LogStep) => Partial<LogStep>) => {
		const index = log.steps.findLastIndex((step) => step.number === number);
		const step = log.steps[index];
		if (step !== undefined) log.steps[index] = { ...step, ...fields(step) };
	};
	if (event.type === 'step') {
		log.steps.push({
			number, phase: String(data['phase']), command: String(data['cmd']), output: '', isCut: false,
			state: 'running', exit: null, elapsedMs: 0
		}); // prettier-ignore
	} else if (event.type === 'output') {
		change((step) => {
			const output = step.output + String(data['text']);
			const isLong = output.length > OUTPUT_LIMIT;
			return { output: isLong ? output.slice(-OUTPUT_LIMIT) : output, isCut: step.isCut || isLong };
		});
	} else if (event.type === 'done') {
		change(() => ({
			state: data['cached'] ? 'cached' : data['ok'] ? 'success' : 'failed',
			exit: (data['exit'] as number | null | undefined) ?? null,
			elapsedMs: Number(data['elapsed_ms'])
		}));
	} else if (event.type === 'note') {
		if (log.notes.length < NOTES_LIMIT) log.notes.push(String(data['message']));
	} else if (event.type === 'end') {
		log.end = { status: String(data['status']), error: (data['error'] as string | null | undefined) ?? null };
	}
}
