import { describe, expect, it } from 'vitest';
import { bytes, counted, duration, visible, visibleLines } from './text';

describe('text', () => {
	it('shows what would not be seen', () => {
		expect(visible('a\u202Etxt.exe\u0007')).toBe('a⟨U+202E⟩txt.exe⟨U+0007⟩');
		expect(visible('a\u{E0041}b')).toBe('a⟨U+E0041⟩b');
		expect(visible('a\u180e\u206a\ufff9\ufe00\ufe0f\u{e0100}\u034fb')).toBe('a⟨U+180E⟩⟨U+206A⟩⟨U+FFF9⟩⟨U+FE00⟩⟨U+FE0F⟩⟨U+E0100⟩⟨U+034F⟩b');
		expect(visible('❤\ufe0f')).toBe('❤\ufe0f');
		expect(visible('Zürich 日本 🐦')).toBe('Zürich 日本 🐦');
		expect(visibleLines('a\n\tb\u001b[31m')).toBe('a\n\tb⟨U+001B⟩[31m');
	});

	it('has two units of a duration at most', () => {
		expect([0, 59, 60, 3_661, 90_000, 86_400].map(duration)).toEqual([
			'0 s', '59 s', '1 min', '1 h 1 min', '1 d 1 h', '1 d'
		]); // prettier-ignore
	});

	it('has sizes with one digit after the point', () => {
		expect([0, 1023, 1536, 1024 ** 3 * 20].map(bytes)).toEqual(['0 B', '1023 B', '1.5 KiB', '20 GiB']);
	});

	it('counts', () => {
		expect([counted(1, 'sandbox', 'sandboxes'), counted(1200, 'sandbox', 'sandboxes')]).toEqual([
			'1 sandbox',
			'1,200 sandboxes'
		]);
	});
});
