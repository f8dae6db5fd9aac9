import { describe, expect, it } from 'vitest';
import { decodeText, encodeText, imageType, isoTime } from './content';
import { crumbs, join, nameOf, normalised, parentOf, reasonAgainstName } from './paths';

describe('paths', () => {
	it('are put together and taken apart', () => {
		expect([join('/', 'a'), join('/a', 'b'), parentOf('/a/b'), parentOf('/a'), nameOf('/a/b')]).toEqual(['/a', '/a/b', '/a', '/', 'b']);
		expect(['', '/', '//a/./b/../c/', '/../..', 'a/b'].map(normalised)).toEqual(['/', '/', '/a/c', '/', '/a/b']);
		expect(crumbs('/etc/apt').map((crumb) => crumb.path)).toEqual(['/', '/etc', '/etc/apt']);
		expect(crumbs('/').length).toBe(1);
	});

	it('have names that a directory can have', () => {
		expect(['a b', '.profile', 'ü'.repeat(127)].map(reasonAgainstName)).toEqual([null, null, null]);
		for (const name of ['', '.', '..', 'a/b', 'a\0', 'ü'.repeat(128)]) expect(reasonAgainstName(name)).not.toBeNull();
	});
});

describe('times of files', () => {
	it('may be none that a calendar has', () => {
		expect([0, 1.5, 8.64e12].map(isoTime)).toEqual(['1970-01-01T00:00:00.000Z', '1970-01-01T00:00:01.500Z', '+275760-09-13T00:00:00.000Z']);
		expect([99999999999999, -99999999999999, NaN].map(isoTime)).toEqual([null, null, null]);
	});
});

describe('content', () => {
	const bytes = (text: string) => new TextEncoder().encode(text);

	it('comes back from the editor as it was', () => {
		for (const text of ['', 'a\nb\n', 'a\r\nb\r\n', '\ufeffa\r\n', 'no end']) {
			const content = decodeText(bytes(text));
			expect(content).not.toBeNull();
			if (content === null || content.lineEnd === 'mixed') throw new Error('not editable');
			expect(content.text).not.toContain('\r');
			expect(encodeText(content.text, content.lineEnd)).toEqual(bytes(text));
		}
	});

	it('cannot be edited with two kinds of line ends', () => {
		for (const text of ['a\r\nb\n', 'a\rb', 'a\r\r\nb']) expect(decodeText(bytes(text))?.lineEnd).toBe('mixed');
	});

	it('is text or not', () => {
		expect([decodeText(new Uint8Array([0x61, 0])), decodeText(new Uint8Array([0xff, 0x61]))]).toEqual([null, null]);
	});

	it('is an image by what it begins with, and never SVG', () => {
		expect(imageType(new Uint8Array([0x89, 0x50, 0x4e, 0x47, 1]))).toBe('image/png');
		expect([imageType(bytes('<svg xmlns="http://www.w3.org/2000/svg"/>')), imageType(new Uint8Array())]).toEqual([null, null]);
	});
});
