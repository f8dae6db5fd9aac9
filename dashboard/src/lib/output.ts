/** Output of programs as text: without colours and cursor movements, and with nothing hidden in it. */
import { visibleLines } from './text';

/** Escape sequences of terminals: CSI, OSC and other strings, and single ones. An unfinished one at the end too. */
// eslint-disable-next-line no-control-regex
const ESCAPES = /\u001b(?:\[[0-?]*[ -/]*[@-~]?|[\]PX^_][^\u0007\u001b]*(?:\u0007|\u001b\\|$)|[ -/]*[0-~]?)/g;

/** What a terminal would show at last, approximately: of a line that was written several times, the last writing. */
export function plainOutput(text: string): string {
	const lines = text
		.replace(ESCAPES, '')
		.split('\n')
		.map((line) => {
			const content = line.endsWith('\r') ? line.slice(0, -1) : line;
			return content.slice(content.lastIndexOf('\r') + 1);
		});
	return visibleLines(lines.join('\n'));
}
