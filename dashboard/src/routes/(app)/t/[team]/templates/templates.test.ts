import { describe, expect, it } from 'vitest';
import { filterTemplates, isTag, namedReference, reasonAgainstChange, type Template } from './templates';

const template = (fields: Partial<Template>): Template => ({
	name: 'web', id: 'id-1', type: 'base', platform: false, size_bytes: 0, created_at: '2026-01-31T12:00:00Z', ...fields
}); // prettier-ignore

describe('templates of the list', () => {
	it('are referred to by name, and by a tag where the name means another version', () => {
		expect(namedReference(template({ tags: ['latest', 'v2'] }))).toBe('web');
		expect(namedReference(template({ tags: ['v1'] }))).toBe('web:v1');
		expect(namedReference(template({}))).toBe('id-1');
		expect(namedReference(template({ id: undefined, name: 'minimal', platform: true }))).toBe('minimal');
	});

	it('are found by all words in name, tags and labels', () => {
		const all = [template({ labels: { team: 'search' } }), template({ id: 'id-2', name: 'db', type: 'snapshot', tags: ['v1'] })];
		expect(filterTemplates(all, 'WEB team=search', '')).toEqual([all[0]]);
		expect(filterTemplates(all, 'v1', '')).toEqual([all[1]]);
		expect(filterTemplates(all, '', 'snapshot')).toEqual([all[1]]);
		expect(filterTemplates(all, 'web v1', '')).toEqual([]);
	});

	it('of the platform cannot be changed', () => {
		expect(reasonAgainstChange(template({ platform: true }))).not.toBeNull();
		expect(reasonAgainstChange(template({}))).toBeNull();
	});

	it.each([['v1', true], ['1.2-rc_3', true], ['', false], ['.x', false], ['a b', false], ['x'.repeat(65), false]])('tag %s', (tag, isValid) => {
		expect(isTag(tag)).toBe(isValid);
	});
});
