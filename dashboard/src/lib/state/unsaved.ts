/** Sandboxes of which a page has text that is saved nowhere: their pages stay when the sandbox ends. */
import { SvelteSet } from 'svelte/reactivity';

export const unsaved = new SvelteSet<string>();
