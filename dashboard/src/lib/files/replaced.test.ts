import { describe, expect, it } from 'vitest';
import { replacedBy } from './replaced';

const uploads = (...paths: string[]) => paths.map((path) => ({ path, file: new File([], path) }));

describe('replacedBy', () => {
	const tree: Record<string, string[]> = { '/w': ['a', 'site'], '/w/site': ['index.html', 'deep'], '/w/site/deep': [] };
	const asked: string[] = [];
	const namesIn = (path: string) => {
		asked.push(path);
		return Promise.resolve(tree[path] ?? []);
	};
	const found = async (...paths: string[]) => [...(await replacedBy(uploads(...paths), '/w', namesIn))].map((upload) => upload.path);

	it('finds files that are there, in folders too', async () => {
		expect(await found('a', 'b', 'site/index.html', 'site/new', 'site/deep/leaf', 'new/index.html')).toEqual(['a', 'site/index.html']);
		expect(asked).toEqual(['/w', '/w/site', '/w/site/deep']);
	});

	it('looks into no more directories than it may, and assumes the worst of the others', async () => {
		asked.length = 0;
		const many = Array.from({ length: 200 }, (_, index) => `d${index}/file`);
		tree['/w'] = many.map((path) => path.slice(0, -'/file'.length));
		expect((await found(...many)).length).toBe(101);
		expect(asked.length).toBe(100);
	});
});
