import { describe, expect, it } from 'vitest';
import { plainOutput } from './output';

describe('plainOutput', () => {
	it.each([
		['colours', '\u001b[1;32mok\u001b[0m\n', 'ok\n'],
		['a title for the window', '\u001b]0;owned\u0007text', 'text'],
		['a link', '\u001b]8;;https://example.com\u001b\\here\u001b]8;;\u001b\\', 'here'],
		['an escape that is not finished', 'text\u001b[12', 'text'],
		['progress in one line', ' 10%\r 50%\r100%\ndone', '100%\ndone'],
		['line ends of Windows', 'a\r\nb\r\n', 'a\nb\n'],
		['markup', '<b>&amp;</b>', '<b>&amp;</b>'],
		['characters that change the direction', 'a\u202eb', 'a⟨U+202E⟩b'],
		['NUL', 'a\u0000b', 'a⟨U+0000⟩b']
	])('%s', (_, text, shown) => {
		expect(plainOutput(text)).toBe(shown);
	});
});
