/**
 * The event stream of the team. One tab of a browser reads it and passes the events on to the others, as a browser
 * permits six connections to a host over HTTP/1.1. If that tab falls silent, as one does that hangs or that the system froze, a visible one
 * takes its place. Where tabs cannot agree on one (no Web Locks over plain HTTP), each
 * visible tab reads a stream of its own.
 */
import { readEvents } from '$lib/api/event-stream';
import { ApiError } from '$lib/api/errors';
import { token } from '$lib/api/token';
import { pause } from '$lib/wait';
import { clock } from './clock.svelte';

export interface LiveEvent {
	type: string;
	resource_id: string;
	at: string;
	data: Record<string, unknown>;
}

/** Why changes do not arrive: no answer, too many streams of the team, or no right to read them. */
export type Problem = 'silence' | 'limit' | 'refusal';

type Message = { kind: 'event'; event: LiveEvent } | { kind: 'status'; live: boolean; problem: Problem } | { kind: 'hello' } | { kind: 'beat' };

const BEAT_MS = 5_000;
/** Longest silence of the tab that reads the stream. */
const SILENCE_MS = 15_000;
/** The same for the answer to the first question. */
const ANSWER_MS = 3_000;
const RETRY_MS = [500, 1_000, 2_000, 5_000, 10_000];

class Live {
	/** Whether changes arrive. */
	isLive = $state(false);
	/** When they stopped arriving; null before the first connection. */
	lostAt = $state<Date | null>(null);
	problem = $state<Problem>('silence');
	#listeners = new Set<(event: LiveEvent) => void>();
	#retries = new Set<() => void>();
	#end: AbortController | null = null;
	#teamId = '';

	/** Call `listener` for each event until the returned function is called. The type `reset` means: load again. */
	subscribe(listener: (event: LiveEvent) => void): () => void {
		this.#listeners.add(listener);
		return () => this.#listeners.delete(listener);
	}

	/** Call `retry` once, when changes arrive again, unless the returned function is called: for what the control plane did not answer. */
	whenBack(retry: () => void): () => void {
		this.#retries.add(retry);
		return () => this.#retries.delete(retry);
	}

	/** Follow the team's events, and no other team's. */
	follow(teamId: string): void {
		if (teamId === this.#teamId) return;
		this.stop();
		this.#teamId = teamId;
		const end = new AbortController();
		this.#end = end;
		if (navigator.locks && typeof BroadcastChannel !== 'undefined') this.#share(teamId, end.signal);
		else this.#whileVisible(end.signal);
	}

	stop(): void {
		this.#end?.abort();
		this.#end = null;
		this.#teamId = '';
		this.isLive = false;
		this.lostAt = null;
	}

	#share(teamId: string, signal: AbortSignal): void {
		// The number changes with the messages: tabs that were opened before an update agree among themselves.
		const name = `wrenn-events-2-${teamId}`;
		const channel = new BroadcastChannel(name);
		const post = (message: Message) => channel.postMessage(message);
		const status = (live: boolean) => post({ kind: 'status', live, problem: this.problem });
		let leads = false;
		let heardAt = performance.now() - SILENCE_MS + ANSWER_MS;
		channel.onmessage = ({ data }: MessageEvent<Message>) => {
			if (data.kind === 'hello') {
				if (leads) status(this.isLive);
				return;
			}
			heardAt = performance.now();
			// What a tab still says whose place this one has taken is not of this stream.
			if (leads) return;
			if (data.kind === 'status') {
				this.problem = data.problem;
				this.#setLive(data.live);
			} else if (data.kind === 'event') this.#deliver(data.event);
		};
		post({ kind: 'hello' });

		let turn = new AbortController();
		const take = (steal: boolean) => {
			turn.abort();
			turn = new AbortController();
			const ended = AbortSignal.any([signal, turn.signal]);
			const lead = async () => {
				leads = true;
				post({ kind: 'beat' });
				const beat = setInterval(() => post({ kind: 'beat' }), BEAT_MS);
				const rest = () => {
					leads = false;
					clearInterval(beat);
				};
				ended.addEventListener('abort', rest);
				await this.#read(ended, (event) => post({ kind: 'event', event }), status);
			};
			navigator.locks.request(name, steal ? { steal } : { signal: ended }, lead).catch(() => {
				if (ended.aborted) return; // another team is shown, or this tab took the lock itself
				// Another tab heard nothing from this one, and has read what this one has not.
				take(false);
				heardAt = performance.now();
				this.#deliver(reset());
			});
		};
		take(false);

		const watch = setInterval(() => {
			if (leads || document.visibilityState !== 'visible' || performance.now() - heardAt <= SILENCE_MS) return;
			this.problem = 'silence';
			this.#setLive(false);
			take(true);
		}, BEAT_MS);
		signal.addEventListener('abort', () => {
			clearInterval(watch);
			channel.close();
		});
	}

	#whileVisible(signal: AbortSignal): void {
		let current: AbortController | null = null;
		const change = () => {
			if (document.visibilityState === 'visible' && current === null) {
				current = new AbortController();
				void this.#read(AbortSignal.any([signal, current.signal]), () => {}, () => {});
				this.#deliver(reset()); // what happened meanwhile was not seen
			} else if (document.visibilityState === 'hidden') {
				current?.abort();
				current = null;
			}
		};
		document.addEventListener('visibilitychange', change, { signal });
		change();
	}

	async #read(
		signal: AbortSignal,
		passOn: (event: LiveEvent) => void,
		passStatus: (live: boolean) => void
	): Promise<void> {
		let lastEventId = '';
		let failures = 0;
		while (!signal.aborted) {
			let problem: Problem = 'silence';
			try {
				const stream = readEvents('/v1/events', { signal, lastEventId });
				for await (const { id, type, data } of stream) {
					failures = 0;
					const event: LiveEvent =
						type === 'reset' || (type === 'ready' && lastEventId === '')
							? reset()
							: (JSON.parse(data) as LiveEvent);
					lastEventId = id;
					if (!this.isLive) {
						this.#setLive(true);
						passStatus(true);
					}
					if (type === 'ready' && event.type !== 'reset') continue;
					this.#deliver(event);
					passOn(event);
				}
			} catch (error) {
				if (signal.aborted) return;
				// Signed out: the dialog asks to sign in, and the next attempt has a new token.
				if (!(error instanceof ApiError)) console.debug('event stream', error);
				else if (error.status === 429) problem = 'limit';
				else if (error.status === 403) {
					problem = 'refusal';
					// If the user is not in the team any more, this leads to another page.
					await token.renew().catch(() => {});
				}
			}
			if (signal.aborted) return;
			this.problem = problem;
			this.#setLive(false);
			passStatus(false);
			const wait = RETRY_MS[Math.min(failures++, RETRY_MS.length - 1)] ?? 10_000;
			await pause(wait * (0.75 + Math.random() / 2), signal);
		}
	}

	#setLive(value: boolean): void {
		// By the server's clock, as everything that is compared with it.
		if (!value) this.lostAt ??= new Date(clock.now);
		const isBack = value && !this.isLive;
		this.isLive = value;
		if (value) this.lostAt = null;
		if (!isBack) return;
		const retries = [...this.#retries];
		this.#retries.clear();
		for (const retry of retries) retry();
	}

	#deliver(event: LiveEvent): void {
		for (const listener of [...this.#listeners]) listener(event);
	}
}

const reset = (): LiveEvent => ({ type: 'reset', resource_id: '', at: '', data: {} });

export const live = new Live();
