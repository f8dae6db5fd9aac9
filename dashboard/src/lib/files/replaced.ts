/** Which uploads would replace something. */
import type { Upload } from './drop';
import { join } from './paths';

/** So many directories are looked into at most; of others it is assumed that they have all files. */
const DIRECTORIES_LIMIT = 100;

/** The uploads at whose paths below `directory` there is something. `namesIn` gives the names in a directory. */
export async function replacedBy(uploads: Upload[], directory: string, namesIn: (path: string) => Promise<string[]>): Promise<Set<Upload>> {
	const found = new Set<Upload>();
	let looked = 0;

	/** `depth`: how many names of each upload's path lead to `path`. */
	async function look(path: string, within: Upload[], depth: number): Promise<void> {
		if (looked++ >= DIRECTORIES_LIMIT) return within.forEach((upload) => found.add(upload));
		const names = new Set(await namesIn(path));
		const below = new Map<string, Upload[]>();
		for (const upload of within) {
			const [name = '', ...rest] = upload.path.split('/').slice(depth);
			if (!names.has(name)) continue;
			if (rest.length === 0) found.add(upload);
			else below.set(name, [...(below.get(name) ?? []), upload]);
		}
		for (const [name, those] of below) await look(join(path, name), those, depth + 1);
	}
	await look(directory, uploads, 0);
	return found;
}
