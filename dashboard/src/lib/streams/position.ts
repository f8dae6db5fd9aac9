/**
 * How much of a process's output has been shown. The server buffers the last part of the output and sends it again to whoever
 * attaches; with this count a client that attaches a second time shows only what is new, and knows what it has missed.
 */
export class OutputPosition {
	/** Bytes since the start of the process, whether shown or missed. */
	#seen = 0;
	#toSkip = 0;
	#toReplay = 0;

	/** A stream begins with `replayed` buffered bytes; `missed` earlier ones are not buffered any more. Returns how many are lost. */
	begin(replayed: number, missed: number): number {
		const lost = Math.max(0, missed - this.#seen);
		this.#toSkip = Math.min(replayed, Math.max(0, this.#seen - missed));
		this.#toReplay = replayed - this.#toSkip;
		this.#seen = Math.max(this.#seen, missed);
		return lost;
	}

	/** The part of received bytes that has not been shown, and whether it begins with output written before the stream began. */
	take(received: Uint8Array): { fresh: Uint8Array; isReplay: boolean } {
		const fresh = received.subarray(Math.min(this.#toSkip, received.length));
		this.#toSkip -= received.length - fresh.length;
		const isReplay = this.#toReplay > 0 && fresh.length > 0;
		this.#toReplay = Math.max(0, this.#toReplay - fresh.length);
		this.#seen += fresh.length;
		return { fresh, isReplay };
	}
}
