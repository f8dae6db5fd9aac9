/** The terminal emulator, set up so that a program in a sandbox can do nothing but write text. Loaded only where it is needed. */
import { FitAddon } from '@xterm/addon-fit';
import { Terminal, type ITheme } from '@xterm/xterm';
import '@xterm/xterm/css/xterm.css';
import { visible } from '$lib/text';
import { followTheme, themeColour } from '$lib/theme';
import { limitRepeats } from './repeats';

const SCROLLBACK_LINES = 5_000;
const FONT = '"JetBrains Mono Variable"';
// eslint-disable-next-line no-control-regex
const CONTROLS = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f]/g;

export interface EmulatorEvents {
	oninput: (text: string) => void;
	oninputbytes: (binary: string) => void;
	onresize: (cols: number, rows: number) => void;
	/** A program's link was clicked; it begins with http:// or https://. */
	onlink: (url: string) => void;
	/** Text was pasted that would be run line by line, or has control characters. Without it text is pasted at once. */
	onpaste: (text: string) => void;
	/** The key that leaves the terminal was pressed. */
	onleave: () => void;
	oncopy: (text: string) => void;
}

function theme(): ITheme {
	const [text, muted, edge, page] = [themeColour('text'), themeColour('muted'), themeColour('edge'), themeColour('page')];
	const colours = {
		red: themeColour('error'), green: themeColour('running'), yellow: themeColour('missing'),
		blue: themeColour('starting'), magenta: themeColour('disk'), cyan: themeColour('cpu')
	}; // prettier-ignore
	const bright = Object.fromEntries(
		Object.entries(colours).map(([name, value]) => [`bright${name[0]?.toUpperCase()}${name.slice(1)}`, value])
	);
	return {
		background: page, foreground: text, cursor: themeColour('accent'), cursorAccent: page,
		selectionBackground: themeColour('starting') + '55',
		black: page, brightBlack: edge, white: muted, brightWhite: text, ...colours, ...bright
	}; // prettier-ignore
}

export class Emulator {
	#terminal: Terminal;
	#fit = new FitAddon();
	#replaying = 0;
	#end = new AbortController();
	#events: EmulatorEvents;

	/** Load the font first: the size of the cells is measured once. */
	static async open(parent: HTMLElement, events: EmulatorEvents): Promise<Emulator> {
		await document.fonts.load(`12.5px ${FONT}`).catch(() => []);
		return new Emulator(parent, events);
	}

	private constructor(parent: HTMLElement, events: EmulatorEvents) {
		this.#events = events;
		this.#terminal = new Terminal({
			fontFamily: `${FONT}, ui-monospace, monospace`,
			fontSize: 12.5,
			lineHeight: 1.3,
			scrollback: SCROLLBACK_LINES,
			theme: theme(),
			minimumContrastRatio: 4.5,
			cursorBlink: false,
			linkHandler: { activate: (_, url) => this.#openLink(url) }
		});
		limitRepeats(this.#terminal);
		this.#terminal.loadAddon(this.#fit);
		// A program's `--` must not look like one long dash.
		parent.style.fontVariantLigatures = 'none';
		this.#terminal.open(parent);
		this.#fitNow(parent);
		// What the emulator answers to queries in old output must not be typed into the program that runs now.
		this.#terminal.onData((text) => this.#replaying === 0 && events.oninput(text));
		this.#terminal.onBinary((binary) => this.#replaying === 0 && events.oninputbytes(binary));
		this.#terminal.onResize(({ cols, rows }) => events.onresize(cols, rows));
		this.#terminal.attachCustomKeyEventHandler((event) => this.#mayHandle(event));
		const { signal } = this.#end;
		parent.addEventListener('paste', (event) => this.#checkPaste(event), { capture: true, signal });
		// Dropped text would be typed without a question.
		parent.addEventListener('drop', (event) => event.preventDefault(), { capture: true, signal });
		const observer = new ResizeObserver(() => this.#fitNow(parent));
		observer.observe(parent);
		signal.addEventListener('abort', () => observer.disconnect());
		const unfollow = followTheme(() => (this.#terminal.options.theme = theme()));
		signal.addEventListener('abort', unfollow);
	}

	get size(): { cols: number; rows: number } {
		return { cols: this.#terminal.cols, rows: this.#terminal.rows };
	}

	write(bytes: Uint8Array, isReplay: boolean, done: () => void): void {
		if (isReplay) this.#replaying++;
		this.#terminal.write(bytes, () => {
			if (isReplay) this.#replaying--;
			done();
		});
	}

	/** Write a line of the dashboard's own. `text` must not come from a sandbox. */
	note(text: string): void {
		this.#terminal.write(`\r\n\x1b[0;7m ${text} \x1b[0m\r\n`);
	}

	/** Type text as if it was pasted. */
	paste(text: string): void {
		// Without ESC nothing can pretend to be the end of a bracketed paste.
		this.#terminal.paste(text.replace(CONTROLS, ''));
		this.focus();
	}

	focus(): void {
		this.#terminal.focus();
	}

	close(): void {
		this.#end.abort();
		this.#terminal.dispose();
	}

	#fitNow(parent: HTMLElement): void {
		// A hidden terminal keeps its size.
		if (parent.clientWidth > 0) this.#fit.fit();
	}

	#openLink(url: string): void {
		if (/^https?:\/\//i.test(url) && URL.canParse(url)) this.#events.onlink(url);
	}

	#mayHandle(event: KeyboardEvent): boolean {
		if (event.key === 'F6' && event.ctrlKey) {
			if (event.type === 'keydown') this.#events.onleave();
			event.preventDefault();
			return false;
		}
		if (event.ctrlKey && event.shiftKey && event.code === 'KeyC') {
			if (event.type === 'keydown' && this.#terminal.hasSelection()) this.#events.oncopy(this.#terminal.getSelection());
			event.preventDefault();
			return false;
		}
		// The browser pastes, and the event arrives as `paste`.
		return !(event.ctrlKey && event.shiftKey && event.code === 'KeyV');
	}

	#checkPaste(event: ClipboardEvent): void {
		const text = event.clipboardData?.getData('text/plain') ?? '';
		// Ends of lines, control characters, and others that are not seen: it could do more than its reader expects.
		if (visible(text) === text) return;
		event.preventDefault();
		event.stopPropagation();
		this.#events.onpaste(text);
	}
}
