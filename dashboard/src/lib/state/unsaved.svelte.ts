/** What people have typed and not sent: no page is left without a question while there is some. */
import { SvelteSet } from 'svelte/reactivity';
import { beforeNavigate } from '$app/navigation';
import { departure } from '$lib/api/departure';

/** Sandboxes of which a page has text that is saved nowhere: their pages stay when the sandbox ends. */
export const unsaved = new SvelteSet<string>();

/** Ask before the page is left while this is true. For a component that is being made; it ends with it. */
export function guardUnsaved(isUnsaved: () => boolean, question = 'What you typed is not saved. Discard it?'): void {
	$effect.pre(() => departure.guard(isUnsaved));
	beforeNavigate(({ cancel, type }) => {
		if (departure.isAllowed || !isUnsaved()) return;
		// Only for leaving the site does the browser ask by itself.
		if (type === 'leave' || !confirm(question)) cancel();
	});
}
