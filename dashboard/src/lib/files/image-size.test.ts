import { describe, expect, it } from 'vitest';
import { imageType } from './content';
import { isShownImage } from './image-size';

const ascii = (text: string) => [...text].map((character) => character.charCodeAt(0));
const big = (value: number, bytes: number) => Array.from({ length: bytes }, (_, index) => Math.floor(value / 256 ** (bytes - 1 - index)) % 256);
const little = (value: number, bytes: number) => big(value, bytes).reverse();

const png = (width: number, height: number) => [0x89, ...ascii('PNG\r\n\x1a\n'), ...big(13, 4), ...ascii('IHDR'), ...big(width, 4), ...big(height, 4), 8, 6, 0, 0, 0];
const jpeg = (width: number, height: number) => [
	0xff, 0xd8, 0xff, 0xe0, ...big(6, 2), ...ascii('JFIF'), 0xff, 0xc4, ...big(3, 2), 0, 0xff, 0xff, 0xc2, ...big(17, 2), 8, ...big(height, 2), ...big(width, 2)
]; // prettier-ignore
/** Its head says one pixel: the size is that of a frame. */
const gif = (width: number, height: number) => [
	...ascii('GIF89a'), ...little(1, 2), ...little(1, 2), 0x80, 0, 0, 1, 1, 1, 2, 2, 2, 0x21, 0xf9, 4, 0, 0, 0, 0, 0,
	0x2c, 0, 0, 0, 0, ...little(1, 2), ...little(1, 2), 0, 2, 2, 0x4c, 1, 0,
	0x2c, 0, 0, 0, 0, ...little(width, 2), ...little(height, 2), 0x80, 1, 1, 1, 2, 2, 2, 2, 2, 0x4c, 1, 0, 0x3b
]; // prettier-ignore
const dib = (width: number, height: number) => [...little(40, 4), ...little(width, 4), ...little(2 ** 32 - height, 4)];
const bmp = (width: number, height: number) => [...ascii('BM'), ...little(0, 12), ...dib(width, height)];
const oldBmp = (width: number, height: number) => [...ascii('BM'), ...little(0, 12), ...little(12, 4), ...little(width, 2), ...little(height, 2)];
const riff = (kind: string, data: number[]) => [...ascii('RIFF'), 0, 0, 0, 0, ...ascii('WEBP'), ...ascii(kind), ...little(data.length, 4), ...data];
const lossy = (width: number, height: number) => riff('VP8 ', [0, 0, 0, 0x9d, 1, 0x2a, ...little(width, 2), ...little(height, 2)]);
const lossless = (width: number, height: number) => riff('VP8L', [0x2f, ...little(width - 1 + (height - 1) * 2 ** 14, 4)]);
const extended = (width: number, height: number) => riff('VP8X', [0, 0, 0, 0, ...little(width - 1, 3), ...little(height - 1, 3)]);
const icon = (width: number, height: number) => {
	const small = dib(16, 32);
	const entry = (size: number, at: number) => [16, 16, 0, 0, 1, 0, 32, 0, ...little(size, 4), ...little(at, 4)];
	return [0, 0, 1, 0, ...little(2, 2), ...entry(small.length, 38), ...entry(30, 38 + small.length), ...small, ...png(width, height)];
};

describe('images', () => {
	const forms = { png, jpeg, gif, bmp, oldBmp, lossy, lossless, extended, icon };

	it.each(Object.entries(forms))('%s is shown up to a number of pixels, and only with its size', (_, made) => {
		const isShown = (content: Uint8Array) => {
			const type = imageType(content);
			if (type === null) throw new Error('no image');
			return isShownImage(type, content);
		};
		expect(isShown(Uint8Array.from(made(800, 600)))).toBe(true);
		expect(isShown(Uint8Array.from(made(16_000, 2_000)))).toBe(true);
		expect(isShown(Uint8Array.from(made(16_000, 16_000)))).toBe(false);
		// In the middle of a larger buffer.
		expect(isShown(Uint8Array.from([9, 9, 9, ...made(800, 600)]).subarray(3))).toBe(true);
		expect(isShown(Uint8Array.from(made(800, 600).slice(0, 12)))).toBe(false);
	});

	it('is not shown if its size cannot be read', () => {
		for (const head of [[...ascii('RIFF'), ...ascii('AVI AVI AVI AVI AVI AVI ')], [0xff, 0xd8, 0xff, 0xd9, 0, 0, 0, 0], png(0, 5)]) {
			const content = Uint8Array.from(head);
			expect(isShownImage(imageType(content) ?? '', content)).toBe(false);
		}
	});
});
