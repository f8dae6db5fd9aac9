import adapter from '@sveltejs/adapter-static';
import { vitePreprocess } from '@sveltejs/vite-plugin-svelte';

/** @type {import('@sveltejs/kit').Config} */
export default {
	preprocess: vitePreprocess(),
	kit: {
		// The control plane serves these files: `src/wrenn/control/dashboard`.
		adapter: adapter({
			pages: '../src/wrenn/control/dashboard/built',
			assets: '../src/wrenn/control/dashboard/built',
			fallback: 'index.html'
		}),
		paths: {
			// A sentinel that the control plane replaces by the path of `WRENN_PUBLIC_URL` when it starts.
			// The fallback page always has absolute paths, so a relative base is no alternative.
			base: process.env.WRENN_DASHBOARD_BASE ?? '/__wrenn_base__',
			relative: false
		},
		version: { pollInterval: 60_000 }
	}
};
