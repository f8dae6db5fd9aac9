/**
 * Limits on control sequences with a count. The emulator does some of them that often, or takes that much memory, without a pause: one
 * line of output could freeze the page for hours.
 */

interface Screen {
	readonly cols: number;
	readonly rows: number;
	readonly parser: {
		registerCsiHandler: (id: { final: string }, handle: (params: (number | number[])[]) => boolean) => unknown;
	};
}

/** Insert and delete lines, scroll up and down, tab forward and backward. */
const MOVES = ['L', 'M', 'S', 'T', 'I', 'Z'];
/** Repeat the last character. */
const REPEAT = 'b';

/** Have the emulator ignore such a sequence if its count is larger than the screen: no program needs that. */
export function limitRepeats(screen: Screen): void {
	for (const final of MOVES) limit(screen, final, () => Math.max(screen.cols, screen.rows));
	limit(screen, REPEAT, () => screen.cols * screen.rows);
}

function limit(screen: Screen, final: string, most: () => number): void {
	// A handler that returns true ends the sequence; otherwise the emulator's own is next.
	screen.parser.registerCsiHandler({ final }, ([count]) => typeof count === 'number' && count > most());
}
