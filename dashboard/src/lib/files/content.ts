/** Content of files as the preview shows it. */

/** Longer files are only downloaded. */
export const PREVIEW_LIMIT = 2 * 1024 * 1024;

export interface TextContent {
	text: string;
	/** The line ends of the file. Browsers edit text with LF only, so text with both kinds cannot be edited. */
	lineEnd: '\n' | '\r\n' | 'mixed';
}

/** The text of a file; null if it is not UTF-8 text. */
export function decodeText(content: Uint8Array): TextContent | null {
	if (content.includes(0)) return null;
	let text: string;
	try {
		text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(content);
	} catch {
		return null;
	}
	const all = text.split('\n').length - 1;
	const crlf = text.split('\r\n').length - 1;
	const cr = text.split('\r').length - 1;
	const lineEnd = cr === 0 ? '\n' : crlf === all && cr === crlf ? '\r\n' : 'mixed';
	return { text: lineEnd === '\r\n' ? text.replaceAll('\r\n', '\n') : text, lineEnd };
}

/** The bytes of edited text, with the line ends that the file had. */
export function encodeText(text: string, lineEnd: '\n' | '\r\n'): Uint8Array<ArrayBuffer> {
	return new TextEncoder().encode(lineEnd === '\r\n' ? text.replaceAll('\n', '\r\n') : text);
}

/** The farthest time from 1970 that a date can be, in seconds. Files can have any. */
const TIME_LIMIT_S = 8.64e12;

/** A time of a file as text; null if it is none that a calendar has. */
export function isoTime(seconds: number): string | null {
	return Math.abs(seconds) <= TIME_LIMIT_S ? new Date(seconds * 1000).toISOString() : null;
}

const IMAGES: [type: string, start: number[]][] = [
	['image/png', [0x89, 0x50, 0x4e, 0x47]],
	['image/jpeg', [0xff, 0xd8, 0xff]],
	['image/gif', [0x47, 0x49, 0x46, 0x38]],
	['image/bmp', [0x42, 0x4d]],
	['image/webp', [0x52, 0x49, 0x46, 0x46]],
	['image/x-icon', [0, 0, 1, 0]]
];

/** The type of an image by its first bytes. Not SVG: that is shown as text. */
export function imageType(content: Uint8Array): string | null {
	return IMAGES.find(([, start]) => start.every((byte, index) => content[index] === byte))?.[0] ?? null;
}
