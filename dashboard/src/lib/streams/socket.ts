/** A WebSocket of the API that follows a process; see docs/reference/streams.md. */
import { base } from '$app/paths';
import { ApiError, unreachable } from '$lib/api/errors';
import { token } from '$lib/api/token';

/** A message of the server that is JSON. */
export interface Frame {
	type: string;
	[field: string]: unknown;
}

export interface SocketEvents {
	onframe: (frame: Frame) => void;
	onbytes: (bytes: Uint8Array) => void;
	/** Called once. `error`: why the stream ended before the process did; null after the message `exit`, and after `close`. */
	onend: (error: ApiError | null) => void;
}

/** Follows one process. `path` begins with a slash; `first` is the message after the credential, if the endpoint wants one. */
export class ProcessSocket {
	#socket: WebSocket | null = null;
	#events: SocketEvents;
	#isEnded = false;

	constructor(path: string, first: Frame | null, events: SocketEvents) {
		this.#events = events;
		void this.#connect(path, first, true);
	}

	send(message: Frame | Uint8Array<ArrayBuffer>): void {
		if (this.#socket?.readyState !== WebSocket.OPEN) return;
		this.#socket.send(message instanceof Uint8Array ? message : JSON.stringify(message));
	}

	/** End the stream without an event other than `onend(null)`. */
	close(): void {
		this.#end(null);
	}

	async #connect(path: string, first: Frame | null, mayRenew: boolean): Promise<void> {
		const used = await token.current().catch(() => null);
		if (this.#isEnded) return;
		const url = new URL(base + path, location.href);
		url.protocol = url.protocol === 'https:' ? 'wss:' : 'ws:';
		const socket = new WebSocket(url);
		socket.binaryType = 'arraybuffer';
		this.#socket = socket;
		socket.onopen = () => {
			// Browsers cannot set headers of the handshake, and a URL would be written into logs.
			socket.send(JSON.stringify({ type: 'auth', token: used ?? '' }));
			if (first !== null) socket.send(JSON.stringify(first));
		};
		socket.onmessage = ({ data }: MessageEvent<string | ArrayBuffer>) => {
			if (this.#isEnded) return;
			if (typeof data !== 'string') return this.#events.onbytes(new Uint8Array(data));
			const frame = JSON.parse(data) as Frame;
			if (frame.type === 'error') {
				if (frame['code'] === 'unauthorized' && mayRenew && used !== null) {
					socket.onclose = null;
					socket.close();
					void this.#reconnect(path, first, used);
				} else this.#end(new ApiError(400, String(frame['code'] ?? 'stream_failed'), String(frame['data'] ?? '')));
				return;
			}
			this.#events.onframe(frame);
			if (frame.type === 'exit') this.#end(null);
		};
		socket.onclose = () => this.#end(unreachable());
	}

	async #reconnect(path: string, first: Frame | null, refused: string): Promise<void> {
		try {
			if ((await token.renewed(refused)) !== null) return await this.#connect(path, first, false);
			this.#end(new ApiError(401, 'unauthorized', 'Your session has ended.'));
		} catch (error) {
			this.#end(error instanceof ApiError ? error : unreachable());
		}
	}

	#end(error: ApiError | null): void {
		if (this.#isEnded) return;
		this.#isEnded = true;
		if (this.#socket !== null) {
			this.#socket.onclose = null;
			this.#socket.close();
		}
		this.#events.onend(error);
	}
}
