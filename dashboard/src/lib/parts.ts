/** Parts of the dashboard that are loaded when they are needed. */

export class PartMissing extends Error {
	constructor(cause: unknown) {
		super('A part of the dashboard could not be loaded. Perhaps the server has a newer version: load the page again.', { cause });
	}
}

/** The module of an `import()`. Throws `PartMissing`: the files of an earlier version are gone after an update of the server. */
export async function loadPart<T>(part: Promise<T>): Promise<T> {
	try {
		return await part;
	} catch (error) {
		throw new PartMissing(error);
	}
}
