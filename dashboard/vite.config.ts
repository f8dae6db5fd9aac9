import { sveltekit } from '@sveltejs/kit/vite';
import tailwindcss from '@tailwindcss/vite';
import { defineConfig } from 'vitest/config';

// `npm run dev` forwards calls to a control plane that runs already: `WRENN_DASHBOARD_BASE= npm run dev`.
const target = process.env.WRENN_BASE_URL ?? 'http://127.0.0.1:8080';

export default defineConfig({
	plugins: [tailwindcss(), sveltekit()],
	server: { proxy: { '/v1': { target, ws: true }, '/health': target } },
	// The content security policy admits no font from a `data:` address.
	build: { target: 'es2022', assetsInlineLimit: 0, chunkSizeWarningLimit: 400 },
	test: { include: ['src/**/*.test.ts'] }
});
