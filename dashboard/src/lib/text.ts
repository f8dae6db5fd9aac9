/** Text and figures as people read them. */

/** Characters that change the direction of text, or that are not seen: names from sandboxes and tenants may have them. After a pictograph U+FE0F only gives it colour. */
// eslint-disable-next-line no-control-regex
const INVISIBLE = /[\u0000-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufe00-\ufe0e\ufeff\uffa0\ufff0-\ufffb\u{1d173}-\u{1d17a}\u{e0000}-\u{e0fff}]|(?<!\p{Extended_Pictographic})\ufe0f/gu;

/** `text` with such characters shown as their code points, such as `⟨U+202E⟩`. */
export function visible(text: string): string {
	return text.replace(INVISIBLE, (found) => `⟨U+${(found.codePointAt(0) ?? 0).toString(16).toUpperCase().padStart(4, '0')}⟩`);
}

/** The same for text of several lines: line ends and tabs stay. */
export function visibleLines(text: string): string {
	return text.replace(INVISIBLE, (found) => (found === '\n' || found === '\t' ? found : visible(found)));
}

/** Binary sizes: `1.5 GiB`. */
export function bytes(count: number): string {
	const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
	let value = count;
	let unit = 0;
	while (value >= 1024 && unit < units.length - 1) {
		value /= 1024;
		unit++;
	}
	return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1).replace(/\.0$/, '')} ${units[unit]}`;
}

/** Megabytes as the API counts them (2²⁰ bytes). */
export const megabytes = (count: number): string => bytes(count * 1024 * 1024);

const STEPS: [number, string][] = [
	[86_400, 'd'],
	[3_600, 'h'],
	[60, 'min'],
	[1, 's']
];

/** The two largest units of a duration: `3 h 20 min`. */
export function duration(seconds: number): string {
	let rest = Math.max(0, Math.round(seconds));
	if (rest === 0) return '0 s';
	const parts: string[] = [];
	for (const [size, unit] of STEPS) {
		const count = Math.floor(rest / size);
		if (count > 0) parts.push(`${count} ${unit}`);
		else if (parts.length > 0) break;
		rest -= count * size;
		if (parts.length === 2) break;
	}
	return parts.join(' ');
}

/** `1 sandbox`, `2 sandboxes`. */
export function counted(count: number, one: string, many = `${one}s`): string {
	return `${count.toLocaleString('en')} ${count === 1 ? one : many}`;
}
