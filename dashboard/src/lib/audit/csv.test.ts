import { describe, expect, it } from 'vitest';
import { cell, csv, type Entry } from './csv';

describe('audit entries as CSV', () => {
	it.each([
		['=HYPERLINK("http://x")', `"'=HYPERLINK(""http://x"")"`],
		['+1', `"'+1"`],
		['-1', `"'-1"`],
		['@SUM(A1)', `"'@SUM(A1)"`],
		['  =1', `"'  =1"`],
		['\t=1', `"'\t=1"`],
		['\r=1', `"'\r=1"`],
		['a,b\n"c"', '"a,b\n""c"""'],
		['a=1', '"a=1"']
	])('%j', (value, expected) => {
		expect(cell(value)).toBe(expected);
	});

	it('has a line of titles and a line for each entry', () => {
		const entry: Entry = {
			id: 'e1', created_at: '2026-01-31T12:00:00.000001Z', actor_type: 'user', actor_name: '=cmd', action: 'create', resource_type: 'sandbox',
			resource_id: 'cl-1', status: 'success', scope: 'team', metadata: { cause: 'idle' }
		}; // prettier-ignore
		const lines = csv([entry]).split('\r\n');
		expect(lines[0]).toBe('"time","actor_type","actor","actor_id","resource_type","action","resource_id","status","scope","facts","id"');
		expect(lines[1]).toBe(`"2026-01-31T12:00:00.000001Z","user","'=cmd","","sandbox","create","cl-1","success","team","{""cause"":""idle""}","e1"`);
		expect(lines[2]).toBe('');
	});
});
