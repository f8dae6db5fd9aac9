/** One terminal of a sandbox: a program that runs on whether somebody is connected or not, and is found again by its tag. */
import { ProcessSocket, type Frame } from '$lib/streams/socket';
import { OutputPosition } from '$lib/streams/position';
import type { ApiError } from '$lib/api/errors';

/** Terminals that the dashboard started have tags with this beginning. */
export const TAG_PREFIX = 'dashboard-';

export const newTag = (): string => TAG_PREFIX + (crypto.getRandomValues(new Uint32Array(1))[0] ?? 0).toString(16).padStart(8, '0');

/**
 * `connecting` and `open`; `lost`: the program may run on, and can be attached to again; `suspended`: so it does when the sandbox
 * has been resumed; `ended`: there is no such program any more.
 */
export type TerminalState = 'connecting' | 'open' | 'lost' | 'suspended' | 'ended';

/** What has been received and not been drawn. A program that writes faster than the page draws is disconnected and attached to again. */
const UNDRAWN_LIMIT = 4 * 1024 * 1024;
const RETRY_MS = [500, 2_000, 5_000];

export interface Screen {
	/** Draw output, then call `done`. Answers of the emulator to replayed output must not be sent. */
	write: (bytes: Uint8Array, isReplay: boolean, done: () => void) => void;
	/** Tell the reader something about the connection, in a line of its own. */
	note: (text: string) => void;
}

export class TerminalSession {
	state = $state<TerminalState>('connecting');
	/** Why it is not open. */
	reason = $state('');
	/** Bytes of output that were discarded before they could be shown. */
	missed = $state(0);
	#path: string;
	#screen: Screen;
	#socket: ProcessSocket | null = null;
	#position = new OutputPosition();
	#size = { cols: 80, rows: 24 };
	#undrawn = 0;
	#failures = 0;
	#timer: ReturnType<typeof setTimeout> | undefined;
	/** Output may still be drawn, and an attempt to connect be due, when the page has left. */
	#isClosed = false;

	constructor(
		sandboxId: string,
		readonly tag: string,
		screen: Screen
	) {
		this.#path = `/v1/sandboxes/${sandboxId}/pty`;
		this.#screen = screen;
	}

	/** Start the user's shell. */
	start(): void {
		this.#open({ type: 'start', cmd: '$SHELL', tag: this.tag, ...this.#size, on_disconnect: 'keep', encoding: 'binary' });
	}

	/** Attach to the program that runs with this tag. */
	attach = (): void => {
		this.#open({ type: 'connect', tag: this.tag, replay: true, confirm: true, encoding: 'binary' });
	};

	input(text: string): void {
		if (this.state === 'open') this.#socket?.send(new TextEncoder().encode(text));
	}

	/** The same for bytes that are not text, as some mouse reports are. */
	inputBytes(binary: string): void {
		if (this.state === 'open') this.#socket?.send(Uint8Array.from(binary, (character) => character.charCodeAt(0) & 255));
	}

	resize(cols: number, rows: number): void {
		this.#size = { cols, rows };
		if (this.state === 'open') this.#socket?.send({ type: 'resize', cols, rows });
	}

	/** The sandbox is being paused or is paused: the program stays as it is. */
	suspend(): void {
		if (this.state === 'ended' || this.state === 'suspended') return;
		this.#drop();
		this.state = 'suspended';
	}

	/** Disconnect for good; the program runs on. */
	close(): void {
		this.#isClosed = true;
		this.#drop();
		this.state = 'lost';
	}

	#drop(): void {
		clearTimeout(this.#timer);
		const socket = this.#socket;
		this.#socket = null;
		socket?.close();
	}

	#open(first: Frame): void {
		if (this.#isClosed) return;
		this.#drop();
		this.state = 'connecting';
		const socket: ProcessSocket = new ProcessSocket(this.#path, first, {
			onframe: (frame) => socket === this.#socket && this.#hear(frame),
			onbytes: (bytes) => socket === this.#socket && this.#draw(bytes.subarray(1)),
			onend: (error) => socket === this.#socket && this.#ended(error)
		});
		this.#socket = socket;
	}

	#hear(frame: Frame): void {
		if (frame.type === 'started') {
			const lost = this.#position.begin(Number(frame['replayed'] ?? 0), Number(frame['missed'] ?? 0));
			this.missed += lost;
			if (lost > 0) this.#screen.note(`${lost.toLocaleString('en')} bytes missed`);
			this.state = 'open';
			this.reason = '';
			this.#failures = 0;
			this.#socket?.send({ type: 'resize', ...this.#size });
		} else if (frame.type === 'exit') {
			const how = frame['signal_name'] ? `by ${String(frame['signal_name'])}` : `with exit code ${String(frame['exit_code'])}`;
			this.reason = frame['out_of_memory'] ? 'The memory of the sandbox ran out.' : `The program ended ${how}.`;
			this.state = 'ended';
		}
	}

	#draw(bytes: Uint8Array): void {
		const { fresh, isReplay } = this.#position.take(bytes);
		if (fresh.length === 0) return;
		this.#undrawn += fresh.length;
		this.#screen.write(fresh, isReplay, () => {
			this.#undrawn -= fresh.length;
			if (this.#undrawn === 0 && this.state === 'lost' && this.reason === '') this.attach();
		});
		if (this.#undrawn <= UNDRAWN_LIMIT) return;
		this.#drop();
		this.state = 'lost';
		this.reason = '';
	}

	#ended(error: ApiError | null): void {
		this.#socket = null;
		if (error === null) return; // after `exit`
		if (error.code === 'invalid_state') this.state = 'suspended';
		else if (error.code === 'not_found') this.state = 'ended';
		else this.state = 'lost';
		this.reason = this.state === 'ended' ? 'There is no such program any more.' : error.message;
		const wait = RETRY_MS[this.#failures++];
		if (this.state === 'lost' && error.code === 'unreachable' && wait !== undefined) this.#timer = setTimeout(this.attach, wait);
	}
}
