/** One key for each row, made of its name: rows with equal names get different keys, as Svelte stops at two equal ones. */
export function keysOf(names: readonly string[]): string[] {
	const counts = new Map<string, number>();
	return names.map((name) => {
		const count = counts.get(name) ?? 0;
		counts.set(name, count + 1);
		return `${count}/${name}`;
	});
}
