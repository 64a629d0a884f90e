// Names the nearest point, zooms, sorts, filters, and keeps what the reader chose in the URL. All else is HTML and CSS.
// A panel has data-box, its corners in the SVG, and data-x and data-y, the ends and the scale of its axes. A mark has
// the class s and a <title>: a whole text ("plain-20: 1.27 %") or the name of a line, whose values its path gives.
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const range = (count, f) => Array.from({ length: count }, (_, i) => f(i));
const number = (v) => v.toLocaleString("en", { maximumSignificantDigits: Math.abs(v) < 1000 ? 3 : 4 });
const clamp = (v, a, b) => Math.max(Math.min(a, b), Math.min(Math.max(a, b), v));
const place = (use) => [+use.getAttribute("x"), +use.getAttribute("y")];
const set = (node, attributes) => Object.entries(attributes).forEach(([key, value]) => node.setAttribute(key, value));
const byId = (id) => document.getElementById(id);
const drawing = (figure) => figure.querySelector(".drawing svg");
const on = (node, kinds, f) => kinds.split(" ").forEach((kind) => node.addEventListener(kind, f));
const draw = (parent, name, attributes, text = "") => {
	const node = document.createElementNS(parent.namespaceURI, name);
	set(node, attributes);
	node.textContent = text;
	return parent.appendChild(node);
};

// -- axes: from values to places in the SVG and back
function axis(panel, name, view) {
	const [low, high, scale] = view ? view[name] : panel.dataset[name].split(" ");
	const box = panel.dataset.box.split(" ").map(Number);
	const [from, to] = name === "x" ? [box[0], box[2]] : [box[1], box[3]];
	const [scaled, back] = scale === "log" ? [(v) => Math.log10(Math.max(v, 1e-9)), (v) => 10 ** v] : [(v) => v, (v) => v];
	const [a, b] = [scaled(+low), scaled(+high)];
	return {
		low: +low, high: +high, from, to, log: scale === "log",
		place: (v) => from + ((scaled(v) - a) / (b - a)) * (to - from),
		value: (at) => back(a + ((at - from) / (to - from)) * (b - a)),
		shows: (at) => at > Math.min(from, to) - 1 && at < Math.max(from, to) + 1,
	};
}
const axes = (panel, view) => ["x", "y"].map((name) => axis(panel, name, view));
function ticks(axis) {
	const rough = (axis.high - axis.low) / 5;
	const power = 10 ** Math.floor(Math.log10(rough));
	const step = power * [1, 2, 5, 10].find((times) => power * times >= rough);
	const even = range(12, (i) => (Math.ceil(axis.low / step) + i) * step);
	const powers = range(45, (i) => [1, 2, 5][i % 3] * 10 ** (Math.floor(i / 3) - 6));
	return (axis.log ? powers : even).filter((v) => v >= axis.low && v <= axis.high * 1.0001);
}
function vertices(d) {
	return d.split("M").slice(1).flatMap((part) => {
		let [x, y] = [0, 0]; // steps from point to point, or after a zoom the points themselves
		const numbers = part.match(/-?(\d+\.?\d*|\.\d+)/g).map(Number);
		const add = (from, v) => (part.includes("L") ? v : from + v);
		return range(numbers.length >> 1, (i) => [(x = add(x, numbers[2 * i])), (y = add(y, numbers[2 * i + 1])), i]);
	});
}

// -- the nearest point, by mouse, finger or arrow keys
const views = new Map(); // by figure, the axes that a reader chose: {x: [low, high, scale], y: ...}
const tip = byId("tip");
let shown = null;
function points(figure) {
	const found = [];
	for (const panel of all("[data-box]", figure)) {
		const [x, y] = axes(panel, views.get(figure));
		for (const mark of all("[data-tip]", panel).filter((mark) => getComputedStyle(mark).display !== "none")) {
			const line = all(":scope > path, :scope > g > path", mark)[0];
			const at = line ? vertices(line.getAttribute("d")) : all("use", mark).map(place);
			const { across, unit } = figure.dataset;
			const [name, said] = mark.dataset.tip.split(/: (.*)/);
			for (const [px, py] of at.filter(([px, py]) => x.shows(px) && y.shows(py))) {
				const [step, value] = [x.value(px), y.value(py)];
				const words = said || `${unit ? `${value.toFixed(2)} ${unit}` : number(value)} at ${across} ${number(step)}`;
				found.push({ px, py, step, name, words: `${name}: ${words}`, series: mark.classList[1] });
			}
		}
	}
	return found.sort((a, b) => a.px - b.px || a.py - b.py);
}
const ring = (svg, { px, py }) => draw(svg, "circle", { class: "ring", r: 7, cx: px, cy: py });
function show(svg, point) {
	shown = point;
	all(".ring").forEach((ring) => ring.remove());
	tip.hidden = !point;
	if (!point) return;
	ring(svg, point);
	const at = new DOMPoint(point.px, point.py).matrixTransform(svg.getScreenCTM());
	tip.textContent = point.words;
	const left = clamp(at.x + 12, 4, innerWidth - tip.offsetWidth - 4);
	set(tip, { style: `left:${left}px;top:${at.y > 40 ? at.y - tip.offsetHeight - 10 : at.y + 12}px` });
	const own = svg.closest("figure");
	for (const other of figures) if (other !== own && other.dataset.across === own.dataset.across) mark(other, point);
}
// The same step or depth in another figure in sight: of the same line, or else of a net of that depth.
function mark(figure, { step, name }) {
	const box = figure.getBoundingClientRect();
	if (box.bottom < 0 || box.top > innerHeight) return;
	const far = (p) => Math.abs(p.step - step);
	const there = points(figure).filter((p) => far(p) <= step / 100).sort((a, b) => far(a) - far(b));
	const line = (name) => name.replace(/^\w+-(\d+).*?(, \w+)?$/, "$1$2");
	const twin = there.find((p) => p.name === name) || there.find((p) => line(p.name) === line(name));
	if (!twin) return;
	const svg = drawing(figure);
	ring(svg, twin);
	const end = ["start", "middle", "end"][Math.floor(3 * twin.px / svg.viewBox.baseVal.width)];
	draw(svg, "text", { class: "ring", x: twin.px, y: twin.py - 12, "text-anchor": end }, twin.words);
}
const inside = (svg, event) => new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
function nearest(list, x, y) {
	const far = (p) => Math.hypot(p.px - x, p.py - y);
	return list.reduce((a, b) => (a && far(a) <= far(b) ? a : b), null);
}
function point(figure, svg, event) {
	const { x, y } = inside(svg, event);
	show(svg, nearest(points(figure), x, y));
}
function step(figure, svg, event) {
	const way = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 1, ArrowUp: -1 }[event.key];
	if (event.key === "Escape") show(svg, null);
	const every = points(figure);
	if (!way || !every.length) return;
	event.preventDefault();
	if (!shown) return show(svg, every[0]);
	const along = /t$/.test(event.key) && shown.series; // left and right follow a series; up and down lead to others
	const ahead = (p) => (along ? p.series === along && p.px - shown.px : p.py - shown.py) * way > 0.01;
	show(svg, nearest(every.filter(ahead), shown.px, shown.py) || shown);
}

// -- zoom: by dragging, and from linear to logarithmic
const drawn = new Map(); // panels as they were
function zoom(figure, view) {
	views.delete(figure);
	if (view) views.set(figure, view);
	figure.classList.toggle("zoomed", !!view);
	for (const panel of all("[data-box]", figure)) {
		if (!drawn.has(panel)) drawn.set(panel, panel.innerHTML);
		panel.innerHTML = drawn.get(panel);
		if (!view) continue;
		const [[oldX, oldY], [x, y]] = [axes(panel), axes(panel, view)];
		const moved = (px, py) => [x.place(oldX.value(px)).toFixed(2), y.place(oldY.value(py)).toFixed(2)];
		for (const path of all(".s path", panel).filter((path) => !path.closest("defs")))
			path.setAttribute("d", vertices(path.getAttribute("d")).map(([px, py, i]) => (i ? "L" : "M") + moved(px, py)).join(""));
		for (const use of all(".s use", panel)) {
			const [px, py] = moved(...place(use));
			if (!x.shows(+px) || !y.shows(+py)) use.remove();
			set(use, { x: px, y: py });
		}
		const grid = draw(panel, "g", { class: "grid" });
		const line = (d, value, x, y, anchor) => {
			draw(grid, "path", { d });
			draw(grid, "text", { x, y, "text-anchor": anchor }, number(value));
		};
		ticks(x).forEach((v) => line(`M${x.place(v)} ${y.from}V${y.to}`, v, x.place(v), y.from + 15, "middle"));
		ticks(y).forEach((v) => line(`M${x.from} ${y.place(v)}H${x.to}`, v, x.from - 7, y.place(v) + 4, "end"));
	}
	save();
}
function zooming(figure, svg) {
	const panel = all("[data-box]", figure)[0];
	const [log, reset] = all("figcaption button", figure);
	const current = () => axes(panel, views.get(figure));
	on(log, "click", () => {
		const [x, y] = current();
		const least = y.low > 0 ? y.low : Math.min(y.high / 10, ...points(figure).map((p) => y.value(p.py)).filter((v) => v > 0));
		zoom(figure, { x: [x.low, x.high], y: [least, y.high, y.log ? "linear" : "log"] });
	});
	on(reset, "click", () => zoom(figure));
	let start, frame;
	const sides = (event) => {
		const end = inside(svg, event);
		return current().map((axis, i) => [start, end].map((p) => clamp(i ? p.y : p.x, axis.from, axis.to)).sort((a, b) => a - b));
	};
	on(svg, "pointerdown", (event) => {
		if (event.pointerType !== "mouse" || event.button) return; // a finger scrolls
		event.preventDefault();
		svg.setPointerCapture(event.pointerId);
		start = inside(svg, event);
		frame = draw(svg, "rect", { class: "frame" });
	});
	on(svg, "pointermove", (event) => {
		if (!start) return;
		const [[left, right], [top, bottom]] = sides(event);
		set(frame, { x: left, y: top, width: right - left, height: bottom - top });
	});
	on(svg, "pointerup", (event) => {
		if (!start) return;
		const [[left, right], [top, bottom]] = sides(event);
		const [x, y] = current();
		start = frame.remove();
		if (right - left < 8 || bottom - top < 8) return;
		zoom(figure, { x: [x.value(left), x.value(right)], y: [y.value(bottom), y.value(top), y.log ? "log" : "linear"] });
	});
}

// -- the table of nets
const nets = byId("table-nets");
const heads = all("thead th", nets);
function sort(column, down) {
	const value = (row) => {
		const text = row.cells[column].textContent.replace(/,(?=\d{3})/g, "");
		const found = text.match(/^\[?(-?[\d.]+)(?:.* (min|h)$)?/);
		return found ? found[1] * ({ min: 60, h: 3600 }[found[2]] || 1) : text;
	};
	const compare = (a, b) => (isNaN(a) || isNaN(b) ? `${a}`.localeCompare(b, "en", { numeric: true }) : a - b);
	nets.tBodies[0].append(...all("tbody tr", nets).sort((a, b) => compare(value(a), value(b)) * (down ? -1 : 1)));
	heads.forEach((head, i) => (head.ariaSort = i === column ? (down ? "descending" : "ascending") : null));
}
const filter = byId("filter");
function sift() {
	const wanted = filter.value.toLowerCase().split(/\s+/);
	for (const row of all("tbody tr", nets)) row.hidden = !wanted.every((word) => row.textContent.toLowerCase().includes(word));
}

// -- the URL: #section;off=fig-depth-running.1;colours=dark;paper=0;sort=3.1;filter=plain;zoom=fig-curves-plain,0,9,0,50,log
let section = "";
function save() {
	const state = all("figcaption input:not(:checked)").map((box) => `off=${box.closest("figure").id}.${box.className.slice(1)}`);
	all("[name=colours]:checked:not(#system)").forEach((box) => state.push(`colours=${box.id}`));
	if (byId("paper")?.checked === false) state.push("paper=0");
	const sorted = heads.findIndex((head) => head.ariaSort);
	if (sorted >= 0) state.push(`sort=${sorted}.${+(heads[sorted].ariaSort === "descending")}`);
	if (filter.value) state.push(`filter=${encodeURIComponent(filter.value)}`);
	for (const [figure, { x, y }] of views) state.push(`zoom=${[figure.id, ...[x[0], x[1], y[0], y[1]].map((v) => +(+v).toPrecision(6)), y[2]]}`);
	history.replaceState(null, "", `#${[section, ...state].join(";")}`);
}
function hash() {
	try {
		return decodeURIComponent(location.hash.slice(1));
	} catch {
		return ""; // a mistyped one
	}
}
function load() {
	const [target, ...state] = hash().split(";");
	section = target;
	const check = (selector, checked) => all(selector).forEach((box) => (box.checked = checked));
	for (const [key, text = ""] of state.map((part) => part.split(/=(.*)/))) {
		const [, id, end] = text.match(/^(.*?)\.?(\d*)$/);
		const [name, a, b, c, d, scale] = text.split(",");
		if (key === "off") check(`[id="${CSS.escape(id)}"] .k${end || "x"}`, false);
		if (key === "colours") check(`[name=colours][id="${CSS.escape(text)}"]`, true);
		if (key === "paper") check("#paper", false);
		if (key === "sort" && heads[id]) sort(+id, end === "1");
		if (key === "filter") filter.value = text;
		if (key === "zoom" && +a < +b && +c < +d)
			all(`[data-zooms][id="${CSS.escape(name)}"]`).forEach((figure) => zoom(figure, { x: [a, b], y: [c, d, scale] }));
	}
	sift();
	open();
	save();
}
function open() {
	const found = byId(section);
	found?.closest("details")?.setAttribute("open", "");
	found?.scrollIntoView();
}

// -- begin
all(":disabled").forEach((node) => (node.disabled = false)); // what does nothing without scripts
for (const title of all(".s > title")) {
	title.parentNode.dataset.tip = title.textContent; // or the browser would show its own
	title.remove();
}
const figures = all("figure:has([data-tip])");
for (const figure of figures) {
	const svg = drawing(figure);
	svg.tabIndex = 0;
	on(svg, "pointermove pointerdown", (event) => point(figure, svg, event));
	on(svg, "pointerleave blur", (event) => event.pointerType !== "touch" && show(svg, null));
	on(svg, "keydown", (event) => step(figure, svg, event));
	on(svg, "dblclick", () => shown && (location.hash = `net-${shown.words.split(/[,:]/)[0]}`));
	if ("zooms" in figure.dataset) zooming(figure, svg);
	const boxes = all("figcaption input", figure);
	for (const label of all("figcaption label", figure))
		on(label, "dblclick", () => {
			const alone = boxes.every((box) => box.checked === label.contains(box)); // then all come back
			boxes.forEach((box) => (box.checked = alone || label.contains(box)));
			save();
		});
}
heads.forEach((head, column) => on(head.firstChild, "click", () => (sort(column, head.ariaSort === "ascending"), save())));
on(nets.tBodies[0], "click", (event) => event.target.closest("a") || all("a", event.target.closest("tr"))[0].click());
on(filter, "input", () => (sift(), save()));
on(document, "change", save);
on(window, "hashchange", () => {
	if (location.hash.includes(";")) return load();
	section = hash();
	open();
	save();
});
if (location.hash) load();
