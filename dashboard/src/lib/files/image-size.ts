/** Width and height of an image by its head. A file of some kilobytes may be an image that takes gigabytes of the browser's memory. */

export interface Size {
	width: number;
	height: number;
}

/** Larger images are only downloaded: four bytes a pixel, 160 MB. */
export const PIXELS_LIMIT = 40_000_000;

/** Whether the browser may decode it. An image whose size cannot be read may not. */
export function isShownImage(type: string, content: Uint8Array): boolean {
	let size: Size | null;
	try {
		size = READERS[type]?.(new DataView(content.buffer, content.byteOffset, content.byteLength)) ?? null;
	} catch (error) {
		if (!(error instanceof RangeError)) throw error;
		size = null; // it breaks off
	}
	return size !== null && size.width > 0 && size.height > 0 && size.width * size.height <= PIXELS_LIMIT;
}

const READERS: Record<string, (view: DataView) => Size | null> = {
	'image/png': (view) => png(view, 0),
	'image/jpeg': jpeg,
	'image/gif': gif,
	'image/bmp': (view) => bmp(view, 14),
	'image/webp': webp,
	'image/x-icon': icon
};

const text = (view: DataView, at: number, length: number) =>
	String.fromCharCode(...Array.from({ length }, (_, index) => view.getUint8(at + index)));

function png(view: DataView, at: number): Size | null {
	if (text(view, at + 12, 4) !== 'IHDR') return null;
	return { width: view.getUint32(at + 16), height: view.getUint32(at + 20) };
}

/** `at`: where the header with the size begins, behind that of the file. */
function bmp(view: DataView, at: number): Size {
	if (view.getUint32(at, true) === 12) return { width: view.getUint16(at + 4, true), height: view.getUint16(at + 6, true) };
	return { width: Math.abs(view.getInt32(at + 4, true)), height: Math.abs(view.getInt32(at + 8, true)) };
}

function jpeg(view: DataView): Size | null {
	let at = 2;
	for (;;) {
		if (view.getUint8(at) !== 0xff) return null;
		const marker = view.getUint8(at + 1);
		if (marker === 0xff) {
			at++; // a byte that fills up
			continue;
		}
		// Start of a frame: C0 to CF without the tables C4 and CC and the reserved C8.
		if (marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker))
			return { height: view.getUint16(at + 5), width: view.getUint16(at + 7) };
		if (marker === 0xd9 || marker === 0xda) return null; // the end, or a scan before any frame
		at += 2 + view.getUint16(at + 2);
	}
}

/** Frames may be larger than the screen that the head names: the largest counts. */
function gif(view: DataView): Size | null {
	const colours = (flags: number) => (flags & 0x80 ? 3 * 2 ** ((flags & 7) + 1) : 0);
	const size = { width: view.getUint16(6, true), height: view.getUint16(8, true) };
	let at = 13 + colours(view.getUint8(10));
	for (let isFound = false; ; ) {
		// What follows the first frame may be cut off.
		const kind = at < view.byteLength ? view.getUint8(at) : 0x3b;
		if (kind === 0x3b) return isFound ? size : null;
		if (kind === 0x2c) {
			isFound = true;
			size.width = Math.max(size.width, view.getUint16(at + 1, true) + view.getUint16(at + 5, true));
			size.height = Math.max(size.height, view.getUint16(at + 3, true) + view.getUint16(at + 7, true));
			at += 11 + colours(view.getUint8(at + 9));
		} else if (kind === 0x21) at += 2;
		else return null;
		let length: number;
		do {
			length = at < view.byteLength ? view.getUint8(at) : 0;
			at += 1 + length;
		} while (length > 0);
	}
}

function webp(view: DataView): Size | null {
	if (text(view, 8, 4) !== 'WEBP') return null;
	const kind = text(view, 12, 4);
	if (kind === 'VP8X') {
		const of = (at: number) => 1 + view.getUint16(at, true) + view.getUint8(at + 2) * 65_536;
		return { width: of(24), height: of(27) };
	}
	if (kind === 'VP8 ') return { width: view.getUint16(26, true) & 0x3fff, height: view.getUint16(28, true) & 0x3fff };
	if (kind !== 'VP8L') return null;
	const bits = view.getUint32(21, true);
	return { width: 1 + (bits & 0x3fff), height: 1 + ((bits >>> 14) & 0x3fff) };
}

/** The largest of its images, which are PNG or BMP without the header of the file. */
function icon(view: DataView): Size | null {
	let largest: Size | null = null;
	for (let index = 0; index < view.getUint16(4, true); index++) {
		const at = view.getUint32(6 + 16 * index + 12, true);
		const size = view.getUint32(at) === 0x89504e47 ? png(view, at) : bmp(view, at);
		if (size === null) return null;
		if (largest === null || size.width * size.height > largest.width * largest.height) largest = size;
	}
	return largest;
}
