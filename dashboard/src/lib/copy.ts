/** Copy text to the clipboard. False: the browser refused. */
export async function copyText(text: string): Promise<boolean> {
	try {
		// Absent without HTTPS, other than on the own machine.
		if (navigator.clipboard) {
			await navigator.clipboard.writeText(text);
			return true;
		}
	} catch {
		// Not permitted here; the older way may be.
	}
	const area = document.createElement('textarea');
	area.value = text;
	area.setAttribute('readonly', '');
	area.style.position = 'fixed';
	area.style.opacity = '0';
	// Inside an open dialog, because what is outside of it cannot be selected.
	const owner = document.activeElement?.closest('dialog') ?? document.body;
	const focused = document.activeElement as HTMLElement | null;
	owner.append(area);
	area.select();
	const done = document.execCommand('copy');
	area.remove();
	focused?.focus();
	return done;
}
