/** Paths in a sandbox. All are absolute. */

export function join(directory: string, name: string): string {
	return directory.endsWith('/') ? directory + name : `${directory}/${name}`;
}

export function parentOf(path: string): string {
	return path.slice(0, path.lastIndexOf('/')) || '/';
}

export const nameOf = (path: string): string => path.slice(path.lastIndexOf('/') + 1);

/** `path` without `.`, `..` and doubled slashes, so that one directory has one address. */
export function normalised(path: string): string {
	const parts: string[] = [];
	for (const part of path.split('/')) {
		if (part === '..') parts.pop();
		else if (part !== '' && part !== '.') parts.push(part);
	}
	return `/${parts.join('/')}`;
}

/** The directories on the way to `path`, itself included: `/`, `/etc`, `/etc/apt`. */
export function crumbs(path: string): { name: string; path: string }[] {
	const found = [{ name: '/', path: '/' }];
	for (const name of path.split('/').filter((part) => part !== ''))
		found.push({ name, path: join(found[found.length - 1]?.path ?? '/', name) });
	return found;
}

/** Why a name cannot be used in a directory; null: it can. */
export function reasonAgainstName(name: string): string | null {
	if (name === '') return 'Type a name.';
	if (name === '.' || name === '..') return 'This name stands for a directory.';
	if (name.includes('/')) return 'A name has no “/”.';
	if (name.includes('\0')) return 'A name has no NUL character.';
	return new TextEncoder().encode(name).length > 255 ? 'A name has at most 255 bytes.' : null;
}
