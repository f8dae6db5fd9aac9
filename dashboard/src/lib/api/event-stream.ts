/** Server-sent events read with `fetch`, as `EventSource` cannot send a bearer token. */
import { base } from '$app/paths';
import { authorisedFetch } from './client';
import { errorOf } from './errors';

export interface StreamEvent {
	id: string;
	type: string;
	data: string;
}

/** No line of our servers is longer; whatever sends more is not our server. */
const LINE_LIMIT = 4 * 1024 * 1024;

/** Our servers send a comment every 15 s. A connection that brings nothing for longer is dead, even if nobody has said so. */
const SILENCE_LIMIT_MS = 45_000;

/** Splits text that arrives in pieces into events; see https://html.spec.whatwg.org/multipage/server-sent-events.html. */
export class EventParser {
	#rest = '';
	#id = '';
	#type = '';
	#data: string[] = [];

	/** The events that `text` completes. Lines end with LF or CRLF. */
	feed(text: string): StreamEvent[] {
		const events: StreamEvent[] = [];
		const lines = (this.#rest + text).split('\n');
		this.#rest = lines.pop() ?? '';
		if (this.#rest.length > LINE_LIMIT) throw new Error('a line of the event stream is too long');
		for (const raw of lines) {
			const line = raw.endsWith('\r') ? raw.slice(0, -1) : raw;
			if (line === '') {
				if (this.#data.length > 0)
					events.push({ id: this.#id, type: this.#type || 'message', data: this.#data.join('\n') });
				this.#type = '';
				this.#data = [];
				continue;
			}
			const colon = line.indexOf(':');
			if (colon === 0) continue;
			const field = colon < 0 ? line : line.slice(0, colon);
			let value = colon < 0 ? '' : line.slice(colon + 1);
			if (value.startsWith(' ')) value = value.slice(1);
			if (field === 'id') this.#id = value;
			else if (field === 'event') this.#type = value;
			else if (field === 'data') this.#data.push(value);
		}
		return events;
	}
}

/** Yield the events of a stream until it ends. `path` begins with a slash. Throws `ApiError` if it is refused. */
export async function* readEvents(
	path: string,
	options: { signal: AbortSignal; lastEventId?: string; onopen?: () => void }
): AsyncGenerator<StreamEvent> {
	const headers: Record<string, string> = { accept: 'text/event-stream' };
	if (options.lastEventId) headers['last-event-id'] = options.lastEventId;
	const response = await authorisedFetch(
		new Request(base + path, { headers, signal: options.signal, cache: 'no-store' })
	);
	if (!response.ok || response.body === null)
		throw await errorOf(response, await response.json().catch(() => undefined));
	options.onopen?.();
	const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
	const parser = new EventParser();
	let watchdog: ReturnType<typeof setTimeout> | undefined;
	try {
		for (;;) {
			watchdog = setTimeout(() => void reader.cancel().catch(() => {}), SILENCE_LIMIT_MS);
			const { value, done } = await reader.read();
			clearTimeout(watchdog);
			if (done) return;
			yield* parser.feed(value);
		}
	} finally {
		clearTimeout(watchdog);
		void reader.cancel().catch(() => {});
	}
}
