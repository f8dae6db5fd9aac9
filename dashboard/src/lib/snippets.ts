/** A request to create a sandbox as a command or program that does the same. */
import type { Schemas } from './api/client';

export type CreateRequest = Partial<Schemas['CreateSandbox']>;

const DEFAULTS: CreateRequest = {
	template: 'minimal', auto_resume: false, timeout_sec: 0, lifetime_sec: 0, on_expiry: 'pause', lift_on_pause: false
}; // prettier-ignore

/** The request without what the API fills in by itself. */
export function shortest(request: CreateRequest): CreateRequest {
	return Object.fromEntries(
		Object.entries(request).filter(([name, value]) => {
			if (value === undefined || value === '') return false;
			if (Array.isArray(value)) return value.length > 0;
			if (typeof value === 'object' && value !== null) return Object.keys(value).length > 0;
			return value !== DEFAULTS[name as keyof CreateRequest];
		})
	) as CreateRequest;
}

/** In single quotes for a POSIX shell. */
const shell = (text: string): string => `'${text.replaceAll("'", `'\\''`)}'`;

/** A JSON value as a Python literal. */
function python(value: unknown): string {
	if (value === true) return 'True';
	if (value === false) return 'False';
	if (value === null) return 'None';
	if (Array.isArray(value)) return `[${value.map(python).join(', ')}]`;
	if (typeof value === 'object')
		return `{${Object.entries(value as object)
			.map(([name, item]) => `${python(name)}: ${python(item)}`)
			.join(', ')}}`;
	// JSON's escapes are valid in Python, but a surrogate pair is two characters there: all text is written as it is.
	return JSON.stringify(value);
}

export function curl(request: CreateRequest, url: string): string {
	return [
		`curl --fail-with-body -X POST ${shell(`${url}/v1/sandboxes`)} \\`,
		`  -H "X-API-Key: $WRENN_API_KEY" -H 'Content-Type: application/json' \\`,
		`  -d ${shell(JSON.stringify(shortest(request)))}`
	].join('\n');
}

/** An argument of the SDK: its names are those of the API, and a network policy has a type of its own. */
function argument(name: string, value: unknown): string {
	if (name !== 'network') return `    ${name}=${python(value)},\n`;
	const fields = Object.entries(value as object).map(([field, item]) => `${field}=${python(item)}`);
	return `    network=NetworkPolicy(${fields.join(', ')}),\n`;
}

export function pythonProgram(request: CreateRequest, url: string): string {
	const short = shortest(request);
	const args = Object.entries(short).map(([name, value]) => argument(name, value));
	return [
		'# pip install wrenn; the key is read from WRENN_API_KEY',
		short.network ? 'from wrenn import NetworkPolicy, Sandbox' : 'from wrenn import Sandbox',
		'',
		`sandbox = Sandbox.create(\n${args.join('')}    base_url=${python(url)},\n)`,
		'print(sandbox.id)',
		'print(sandbox.commands.run("uname -a").stdout)'
	].join('\n');
}

export function typescript(request: CreateRequest, url: string): string {
	return [
		`const response = await fetch(${JSON.stringify(`${url}/v1/sandboxes`)}, {`,
		`  method: 'POST',`,
		`  headers: { 'X-API-Key': process.env.WRENN_API_KEY!, 'Content-Type': 'application/json' },`,
		`  body: JSON.stringify(${JSON.stringify(shortest(request), null, 2).replaceAll('\n', '\n  ')})`,
		`});`,
		`if (!response.ok) throw new Error(await response.text());`,
		`const sandbox = await response.json();`,
		`console.log(sandbox.id);`
	].join('\n');
}
