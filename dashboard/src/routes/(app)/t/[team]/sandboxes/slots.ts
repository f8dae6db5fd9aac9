/**
 * Which of the elements of a list shows which row. A row keeps its element while it is shown, and with it focus and selected
 * text; a row that comes into view takes the element of one that went out of view, which is cheaper than a new one.
 */
export class Slots {
	#slots = new Map<string, number>();
	#next = 0;

	/** The number of the element of each of these rows. */
	assign(ids: string[]): number[] {
		const shown = new Set(ids);
		const free: number[] = [];
		for (const [id, slot] of this.#slots)
			if (!shown.has(id)) {
				this.#slots.delete(id);
				free.push(slot);
			}
		return ids.map((id) => {
			const slot = this.#slots.get(id) ?? free.shift() ?? this.#next++;
			this.#slots.set(id, slot);
			return slot;
		});
	}
}
