/** Files that were dropped or chosen, with their paths below the directory into which they go. */

export interface Upload {
	file: File;
	/** Relative, such as `photos/a.jpg`. */
	path: string;
}

/** More files at once are refused: an archive is the better way then. */
export const FILES_LIMIT = 5_000;

export class TooManyFiles extends Error {
	constructor() {
		super(`These are more than ${FILES_LIMIT.toLocaleString('en')} files. Pack them into an archive first.`);
	}
}

/** Files of an `<input type="file">`, which may choose a folder. */
export function chosenFiles(files: FileList): Upload[] {
	if (files.length > FILES_LIMIT) throw new TooManyFiles();
	return [...files].map((file) => ({ file, path: file.webkitRelativePath || file.name }));
}

/** Dropped files and folders, with all that is in them. Must be called within the event. */
export async function droppedFiles(data: DataTransfer): Promise<Upload[]> {
	const entries = [...data.items].map((item) => item.webkitGetAsEntry()).filter((entry) => entry !== null);
	const found: Upload[] = [];
	while (entries.length > 0) {
		const entry = entries.pop();
		if (entry === undefined) break;
		if (found.length > FILES_LIMIT) throw new TooManyFiles();
		if (entry.isFile) {
			const file = await new Promise<File>((done, failed) => (entry as FileSystemFileEntry).file(done, failed));
			found.push({ file, path: entry.fullPath.replace(/^\/+/, '') });
		} else entries.push(...(await childrenOf(entry as FileSystemDirectoryEntry)));
	}
	return found;
}

/** A reader returns some entries at each call, and none at the end. */
async function childrenOf(directory: FileSystemDirectoryEntry): Promise<FileSystemEntry[]> {
	const reader = directory.createReader();
	const all: FileSystemEntry[] = [];
	for (;;) {
		const some = await new Promise<FileSystemEntry[]>((done, failed) => reader.readEntries(done, failed));
		if (some.length === 0) return all;
		all.push(...some);
		if (all.length > FILES_LIMIT) throw new TooManyFiles();
	}
}
