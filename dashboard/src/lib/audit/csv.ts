/** Entries of the audit log as CSV (RFC 4180) that a spreadsheet opens without running anything in it. */
import type { Schemas } from '$lib/api/client';

export type Entry = Schemas['AuditEntry'];

/** Spreadsheets take a cell that begins like this for a formula, also behind spaces. */
const FORMULA = /^\s*[=+\-@|%\t\r]/;

/** One cell: always in quotes, and with an apostrophe before what would be a formula. */
export function cell(value: string): string {
	const safe = FORMULA.test(value) ? `'${value}` : value;
	return `"${safe.replaceAll('"', '""')}"`;
}

const COLUMNS: [title: string, value: (entry: Entry) => string][] = [
	['time', (entry) => entry.created_at],
	['actor_type', (entry) => entry.actor_type],
	['actor', (entry) => entry.actor_name ?? ''],
	['actor_id', (entry) => entry.actor_id ?? ''],
	['resource_type', (entry) => entry.resource_type],
	['action', (entry) => entry.action],
	['resource_id', (entry) => entry.resource_id ?? ''],
	['status', (entry) => entry.status],
	['scope', (entry) => entry.scope],
	['facts', (entry) => (entry.metadata ? JSON.stringify(entry.metadata) : '')],
	['id', (entry) => entry.id]
];

export function csv(entries: Entry[]): string {
	const lines = [COLUMNS.map(([title]) => cell(title)), ...entries.map((entry) => COLUMNS.map(([, value]) => cell(value(entry))))];
	return lines.map((line) => line.join(',') + '\r\n').join('');
}
