/** Draws a chart with uPlot. Loaded only where charts are shown. */
import uPlot from 'uplot';
import 'uplot/dist/uPlot.min.css';
import { themeColour } from '$lib/theme';
import type { Series } from './series';
import { keepsZoom, zoomOf, type Span } from './zoom';

export interface PlotOptions {
	times: number[];
	series: Series[];
	gaps: [number, number][];
	/** The window of time, also where there are no values. */
	from: number;
	to: number;
	/** Upper end of the scale; absent: by the values. */
	max?: number;
	format: (value: number) => string;
	/** Ticks at powers of two, as for bytes. */
	isBinary: boolean;
	isUtc: boolean;
	/** Charts of the same name move their cursors together. */
	syncKey: string;
	height: number;
	/** The index at the cursor; null: the cursor left. */
	oncursor: (index: number | null) => void;
}

const POWERS_OF_TWO = Array.from({ length: 50 }, (_, exponent) => 2 ** exponent);
const MONO = '11px "JetBrains Mono Variable", monospace';

export class Plot {
	#plot: uPlot;
	#options: PlotOptions;
	/** The part that somebody zoomed into. */
	#zoom: Span | null = null;

	constructor(parent: HTMLElement, options: PlotOptions) {
		this.#options = options;
		this.#plot = new uPlot(this.#build(parent.clientWidth), dataOf(options), parent);
	}

	setWidth(width: number): void {
		if (width > 0) this.#plot.setSize({ width, height: this.#options.height });
	}

	/** Show other values with the same lines. A part that somebody zoomed into stays, unless another range is shown. */
	update(options: PlotOptions): void {
		if (!keepsZoom(this.#options, options)) this.#zoom = null;
		this.#options = options;
		this.#plot.setData(dataOf(options), false);
		this.#showSpan();
	}

	#showSpan(): void {
		this.#plot.setScale('x', this.#zoom ?? { min: this.#options.from, max: this.#options.to });
	}

	/** The scale has changed: by `#showSpan`, or as somebody dragged or clicked twice. */
	#rescaled({ min, max }: uPlot.Scale): void {
		this.#zoom = zoomOf({ ...(min == null ? {} : { min }), ...(max == null ? {} : { max }) }, this.#options);
		// After a double click uPlot shows the time that has points, not all of the range.
		if (this.#zoom === null && (min !== this.#options.from || max !== this.#options.to)) this.#showSpan();
	}

	/** Move the cursor by some points; from outside it begins at the last one. */
	moveCursor(by: number): void {
		const { times } = this.#options;
		const now = this.#plot.cursor.idx;
		const next = Math.min(times.length - 1, Math.max(0, now == null ? times.length - 1 : now + by));
		const time = times[next];
		if (time === undefined) return;
		// As if by the mouse, because `setCursor` does not move the cursors of the other charts.
		const { over } = this.#plot;
		const { left, top } = over.getBoundingClientRect();
		over.dispatchEvent(new MouseEvent('mousemove', { clientX: left + this.#plot.valToPos(time, 'x'), clientY: top + 10 }));
	}

	close(): void {
		this.#plot.destroy();
	}

	#build(width: number): uPlot.Options {
		const { series, format, isBinary, isUtc, syncKey, height, max } = this.#options;
		const [muted, line] = [themeColour('muted'), themeColour('line')];
		const axis = { stroke: muted, font: MONO, grid: { stroke: line, width: 1 }, ticks: { show: false } };
		return {
			width,
			height,
			legend: { show: false },
			cursor: { y: false, sync: { key: syncKey }, drag: { x: true, y: false }, points: { size: 6 } },
			scales: {
				x: { time: true, auto: false, min: this.#options.from, max: this.#options.to },
				y: { range: (_, __, highest) => [0, max ?? (Math.max(highest, 0) * 1.1 || 1)] }
			},
			...(isUtc ? { tzDate: (seconds: number) => uPlot.tzDate(new Date(seconds * 1000), 'Etc/UTC') } : {}),
			axes: [
				{ ...axis, size: 28, values: (_, ticks) => timesOf(ticks, isUtc) },
				{ ...axis, size: 72, values: (_, ticks) => ticks.map(format), ...(isBinary ? { incrs: POWERS_OF_TWO } : {}) }
			],
			series: [
				{},
				...series.map(({ label, colour, isDashed }) => ({
					label,
					stroke: themeColour(colour),
					width: 1.5,
					...(isDashed ? { dash: [4, 3] } : {}),
					points: { show: false },
					spanGaps: false
				}))
			],
			hooks: {
				drawClear: [(plot) => this.#drawGaps(plot)],
				setScale: [(plot, name) => name === 'x' && plot === this.#plot && plot.scales['x'] && this.#rescaled(plot.scales['x'])],
				setCursor: [(plot) => this.#options.oncursor(plot.cursor.idx ?? null)]
			}
		};
	}

	#drawGaps(plot: uPlot): void {
		const { left, top, width, height } = plot.bbox;
		plot.ctx.save();
		plot.ctx.beginPath();
		plot.ctx.rect(left, top, width, height);
		plot.ctx.clip();
		plot.ctx.fillStyle = themeColour('hover');
		for (const [from, to] of this.#options.gaps) {
			const start = plot.valToPos(from, 'x', true);
			plot.ctx.fillRect(start, top, plot.valToPos(to, 'x', true) - start, height);
		}
		plot.ctx.restore();
	}
}

function dataOf({ times, series }: PlotOptions): uPlot.AlignedData {
	return [times, ...series.map((each) => each.values)];
}

/** Labels of 24 hours, with seconds only where ticks are closer than a minute, and the day where they are a day apart. */
function timesOf(ticks: number[], isUtc: boolean): string[] {
	const step = (ticks[1] ?? 0) - (ticks[0] ?? 0);
	const zone = isUtc ? { timeZone: 'UTC' } : {};
	const format = new Intl.DateTimeFormat('en-GB', {
		...zone,
		...(step >= 86_400 ? { day: 'numeric', month: 'short' } : { hour: '2-digit', minute: '2-digit', ...(step < 60 ? { second: '2-digit' } : {}) })
	});
	return ticks.map((tick) => format.format(tick * 1000));
}
