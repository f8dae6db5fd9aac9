/** Follows what changes in a directory, while the page is visible. */
import { followWhileVisible } from '$lib/api/follow';

const GATHER_MS = 300;

/** Call `onchange` after changes in a directory until the returned function is called, and `onlive` with whether they are seen. */
export function watchDirectory(sandboxId: string, path: string, onchange: () => void, onlive: (isLive: boolean) => void): () => void {
	let timer: ReturnType<typeof setTimeout> | undefined;
	const stop = followWhileVisible(`/v1/sandboxes/${sandboxId}/files/watch?path=${encodeURIComponent(path)}`, {
		onevent: ({ type }: { type?: string }) => {
			// Many changes at once are one.
			if (type !== 'started') timer ??= setTimeout(() => ((timer = undefined), onchange()), GATHER_MS);
		},
		onmissed: onchange,
		onlive
	});
	return () => {
		stop();
		clearTimeout(timer);
	};
}
