// The page: wires the views to one another and to the address.

import {
  type Colouring, type Place, type Ranks, type Scene, bytes, json, lasso, onLost, within,
} from "./api";
import { Legend } from "./legend";
import { Notice } from "./notice";
import { Scatter, shade } from "./scatter";
import { SectionView } from "./section";
import { type State, read, settle, write } from "./state";
import { card, strip, ticks } from "./panels";

function $<T extends HTMLElement>(id: string): T {
  return document.getElementById(id) as T;
}

const KEYS: [string, string][] = [
  ["[  ]", "section before, next section"], ["c  C", "next colour, colour before"], ["o  O", "opacity up, down"],
  ["d", "show the samples"], ["i", "invert the stain"], ["l", "draw around points of the plane"],
  ["f", "find places that look like the marked one"], ["m", "colour by similarity to it"],
  ["0", "see all"], ["t", "dark or light"], ["Esc", "close, then clear"],
  ["arrows + −", "move and zoom the view that has the focus"], ["Enter", "in the plane: mark the point in the middle"],
];

const state: State = read(location.hash);
let scene: Scene;
let colouring: Colouring;
let chosen: Ranks | null = null;
let place: Place | null = null;
let found: Place[] = [];
let colourTurn = 0;

const scatter = new Scatter($<HTMLCanvasElement>("plane"));
const section = new SectionView($("osd"), $<HTMLCanvasElement>("marks"), $("scale"));
const legend = new Legend($("legend"));
const notice = new Notice($("notice"));

function say(text: string): void {
  $("status").textContent = text;
}

function tell(text: string, seconds = 6): void {
  notice.show(text, seconds);
  say(text);
}

let writing = 0;
function remember(): void {
  clearTimeout(writing);
  writing = window.setTimeout(() => {
    state.view = section.view() ?? state.view;
    history.replaceState(null, "", write(state));
  }, 250);
}

function sheetNumber(): number {
  return Math.max(0, scene.sheets.findIndex((sheet) => sheet.id === state.section));
}

// ------------------------------------------------------------------------------------------------------------ colours

function bySimilarity(): boolean {
  return state.query && state.asmap && state.place >= 0;
}

function colourKey(): string {
  if (bySimilarity()) return `a${state.place}`;
  return (scene.colourings.find((one) => one.title === state.colour) ?? scene.colourings[0])?.key ?? "c0";
}

async function colour(): Promise<void> {
  const turn = ++colourTurn, key = colourKey();
  $<HTMLSelectElement>("colour").value = bySimilarity() ? "" : state.colour;
  const most = scene.most;
  const [palette, values] = await Promise.all([
    json<Colouring>(`r/${state.run}/colouring/${key}`),
    bytes(`r/${state.run}/values/${key}/0`),
  ]);
  if (turn !== colourTurn) return;
  colouring = palette;
  if (state.only > palette.names.length) state.only = 0;
  scatter.setValues(new Uint16Array(values), pixels(palette), state.only);
  legend.show(palette, state.only);
  bare();
  await section.setColours(key, hex(palette), state.only);
  if (scene.rows > most) await more();
  remember();
}

/** Say so where the section has no colour at all, and lead to the one that has most. */
function bare(): void {
  const number = sheetNumber(), known = colouring?.known;
  const none = known && !known[number] ? `None of the ${scene.system} of ${state.section} has a value.` : "";
  const to = known?.some((n) => n > 0) ? busiest(known) : "";
  legend.bare(none, to, () => { state.section = to; void openSection(); });
}

/** Palette as pixels; of free colours the 32 shades of red, green and blue that the server counts in. */
function pixels(palette: Colouring): Uint32Array {
  if (palette.kind !== "rgb") return Uint32Array.from(palette.palette, shade);
  return Uint32Array.from({ length: 32_769 }, (_, i) => {
    const [r, g, b] = cube(i - 1);
    return i ? (0xff000000 | (b << 16) | (g << 8) | r) >>> 0 : 0xffb8b8b8;
  });
}

function hex(palette: Colouring): string[] {
  if (palette.kind !== "rgb") return palette.palette;
  return Array.from({ length: 32_769 }, (_, i) => (i ? `rgb(${cube(i - 1).join(",")})` : "#B8B8B8"));
}

function cube(i: number): [number, number, number] {
  const level = (v: number): number => Math.round(((v & 31) * 255) / 31);
  return [level(i >> 10), level(i >> 5), level(i)];
}

legend.onOnly = (value) => {
  state.only = state.only === value ? 0 : value;
  scatter.setOnly(state.only);
  legend.show(colouring, state.only);
  bare();
  void section.setColours(colourKey(), hex(colouring), state.only);
  remember();
};

// ------------------------------------------------------------------------------------------------------------- section

async function openSection(view: [number, number, number] | null = null): Promise<void> {
  const number = sheetNumber(), sheet = scene.sheets[number];
  if (!sheet) return;
  state.section = sheet.id;
  const where = $("where");
  where.textContent = sheet.id;
  const more = document.createElement("span");
  more.textContent = `${sheet.subject} · ${sheet.rows.toLocaleString("en")} ${scene.system}`;
  where.append(more);
  const slide = $<HTMLInputElement>("slide");
  slide.value = String(number);
  slide.setAttribute("aria-valuetext", sheet.id);
  $("osd").setAttribute("aria-label", `Section ${sheet.id} of ${sheet.subject}`);
  tick();
  bare();
  await section.open(state.run, number, sheet, scene.space, view);
  remember();
}

function step(by: number): void {
  const number = Math.min(scene.sheets.length - 1, Math.max(0, sheetNumber() + by));
  state.section = scene.sheets[number]?.id ?? "";
  void openSection();
}

function tick(): void {
  ticks($<HTMLCanvasElement>("ticks"), scene.sheets, sheetNumber(), chosen, found);
}

// ----------------------------------------------------------------------------------------------------- place and query

async function mark(rank: number, travel: boolean): Promise<void> {
  state.place = rank;
  notice.hide();
  place = await json<Place>(`r/${state.run}/row/${rank}`);
  card($("card"), scene, state.run, place, { find: () => void query(true), all: state.query });
  // a search that is open asks about the newly marked place
  if (state.query) await query(true);
  else marks();
  if (travel) await visit(place);
  say(`marked ${place.id}`);
  remember();
}

async function visit(one: Place): Promise<void> {
  const sheet = scene.sheets[one.sheet];
  if (sheet && sheet.id !== state.section) {
    state.section = sheet.id;
    await openSection();
  }
  section.show(one.x_um, one.y_um);
}

function marks(): void {
  section.setPlace(place, found);
  scatter.setPlace(place && { rank: place.rank, x: place.plane[0], y: place.plane[1] }, found.map((one) => ({ x: one.plane[0], y: one.plane[1] })));
  tick();
}

async function query(open: boolean): Promise<void> {
  if (open && state.place < 0) tell("Mark a place first: click on the section, or on a point of the plane.");
  const before = bySimilarity();
  state.query = open && state.place >= 0;
  if (!state.query) state.asmap = false;
  $<HTMLInputElement>("asmap").checked = state.asmap;
  found = [];
  $("strip").hidden = !state.query;
  if (state.query) {
    const asked = `k=24&radius=${state.radius.toFixed(2)}&among=${state.among}&apart=1`;
    const answer = await json<{ found: Place[] }>(`r/${state.run}/alike/${state.place}?${asked}`);
    found = answer.found;
    strip($("found"), scene, state.run, found, (one) => void visit(one));
    say(`${found.length} places that look like the marked one`);
  }
  marks();
  if (before || bySimilarity()) await colour();
  remember();
}

async function outline(polygon: number[][]): Promise<void> {
  state.outline = polygon;
  chosen = polygon.length ? await lasso(state.run, polygon, scene.sheets.length) : null;
  scatter.setChosen(chosen, polygon);
  section.setChosen(chosen);
  $("clear").hidden = !chosen;
  const sheets = chosen ? chosen.perSheet.reduce((n, k) => n + (k > 0 ? 1 : 0), 0) : 0;
  count(chosen ? `${chosen.size.toLocaleString("en")} chosen, on ${sheets} section${sheets === 1 ? "" : "s"}` : "");
  tick();
  remember();
}

function count(text: string): void {
  const all = scene.rows.toLocaleString("en");
  $("count").textContent = text || `${all} ${scene.system}`;
  $("plane").setAttribute("aria-label", `Features as a plane, ${scene.method}, ${text || all}`);
  if (text) say(text);
}

let moreTurn = 0;
/** Points of what is seen beyond those that are held, when it is a part of the plane. */
async function more(): Promise<void> {
  if (!scatter.loaded || scene.rows <= scatter.loaded) return;
  const turn = ++moreTurn;
  const [x0, y0, x1, y1] = scatter.bounds();
  if (x1 - x0 > 40_000) { scatter.setMore(null); return; }
  const box = `x0=${x0.toFixed(1)}&y0=${y0.toFixed(1)}&x1=${x1.toFixed(1)}&y1=${y1.toFixed(1)}`;
  const got = await within(`r/${state.run}/within/${colourKey()}?start=${scatter.loaded}&${box}`);
  if (turn === moreTurn) scatter.setMore(got);
}

// ------------------------------------------------------------------------------------------------------------- the run

/** Open the run of the state; `wrong` is what a link named and is not here, or null where no link is followed. */
async function openRun(wrong: string[] | null): Promise<void> {
  scene = await json<Scene>(`r/${state.run}`);
  const gone = settle(state, scene);
  document.title = `${scene.name} – Brodmann`;
  const chooser = $<HTMLSelectElement>("colour");
  const groups = new Map<string, HTMLOptGroupElement>();
  // what the menu shows while similarity is; it is chosen beside the search
  const alike = new Option("similarity", "");
  alike.hidden = true;
  for (const one of scene.colourings) {
    const group = groups.get(one.group) ?? document.createElement("optgroup");
    group.label = one.group;
    group.append(new Option(one.title.replace(/^gene /, ""), one.title));
    groups.set(one.group, group);
  }
  chooser.replaceChildren(alike, ...groups.values());
  if (!state.colour) state.colour = scene.colourings[0]?.title ?? "";
  const brains = new Set(scene.sheets.map((sheet) => sheet.subject)).size;
  if (brains < 2 && state.among === "brains") state.among = scene.sheets.length > 1 ? "sections" : "all";
  if (state.radius < 0) state.radius = scene.field_mm ? Math.min(20, Math.max(0.1, Math.round(scene.field_mm * 10) / 10)) : 1;
  $<HTMLSelectElement>("among").value = state.among;
  $<HTMLInputElement>("radius").value = String(state.radius);
  $("apart").textContent = `mm of each other on the same ${scene.registered ? "brain" : "section"}`;
  const slide = $<HTMLInputElement>("slide");
  slide.max = String(scene.sheets.length - 1);
  $("method").textContent = scene.method;
  count("");
  const [x0, y0, x1, y1] = scene.frame;
  const [cx, cy, half] = state.plane ?? [(x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0) / 2];
  scatter.view = { cx, cy, half };
  if (!state.section) state.section = busiest((await json<Colouring>(`r/${state.run}/colouring/${colourKey()}`)).known);
  // the strip takes its room before a view is restored, so that the view keeps its size
  $("strip").hidden = !(state.query && state.place >= 0);
  // all at once: the first picture waits for nothing but its own parts
  await Promise.all([
    bytes(`r/${state.run}/points/0`).then((found) => scatter.setPoints(new Uint16Array(found))),
    openSection(state.view),
    colour(),
  ]);
  await more();
  card($("card"), scene, state.run, null, { find: () => undefined, all: false });
  if (state.outline.length) await outline(state.outline);
  const asked = state.query;
  if (state.place >= 0) {
    state.query = false;
    await mark(state.place, false);
    if (asked) await query(true);
  }
  const missing = wrong && [...wrong, ...gone];
  if (missing?.length)
    tell(`The link names what is not here: ${missing.join(", ")}. Shown is ${scene.name}, section ${state.section}, by ${state.colour}.`, 30);
  remember();
  document.body.dataset["ready"] = "1";
}

/** The section with most samples that have a colour: a better first look than the first cut. */
function busiest(known: number[]): string {
  const counts = scene.sheets.map((sheet, i) => [known[i] ?? 0, sheet.rows] as const);
  const best = counts.reduce((a, [n, rows], i) => {
    const [most, of] = counts[a] as readonly [number, number];
    return n > most || (n === most && rows > of) ? i : a;
  }, 0);
  return scene.sheets[best]?.id ?? "";
}

function clearAll(): void {
  Object.assign(state, { section: "", view: null, plane: null, place: -1, query: false, asmap: false, outline: [], only: 0, radius: -1 });
  chosen = null;
  place = null;
  found = [];
  scatter.setChosen(null, []);
  section.setChosen(null);
  $("strip").hidden = true;
  $("clear").hidden = true;
  notice.hide();
  apply();
  marks();
}

// ------------------------------------------------------------------------------------------------------------ controls

function theme(): void {
  document.documentElement.dataset["theme"] = state.light ? "light" : "dark";
  $("theme").textContent = state.light ? "Dark" : "Light";
  scatter.redraw();
  if (scene) tick();
}

function press(id: string, on: boolean): void {
  $(id).setAttribute("aria-pressed", String(on));
}

function toggle(name: "dots" | "invert" | "light"): void {
  state[name] = !state[name];
  apply();
  remember();
}

function apply(): void {
  theme();
  press("dots", state.dots);
  press("invert", state.invert);
  section.setDots(state.dots);
  section.setTone(state.invert, !state.light);
  section.setOpacity(state.opacity);
  $<HTMLInputElement>("opacity").value = String(state.opacity);
  $<HTMLInputElement>("asmap").checked = state.asmap;
}

function setLasso(on: boolean): void {
  scatter.lassoing = on;
  press("lasso", on);
}

function opacity(to: number): void {
  state.opacity = Math.round(Math.min(1, Math.max(0, to)) * 20) / 20;
  apply();
  remember();
}

function chooseColour(by: number): void {
  // genes are many: they are chosen by name, not one after the other
  const all = scene.colourings.filter((one) => one.group !== "Genes"), at = all.findIndex((one) => one.title === state.colour);
  pickColour(all[(at + by + all.length) % all.length]?.title ?? state.colour);
}

function pickColour(title: string): void {
  state.colour = title;
  state.only = 0;
  state.asmap = false;
  $<HTMLSelectElement>("colour").value = title;
  apply();
  void colour();
}

// a list that is open keeps its keys; most browsers do not even tell of them
const LISTS = CSS.supports("selector(select:open)");

/** A menu gives the focus back after a choice with the mouse; one that is stepped through with arrows keeps it. */
function releases(menu: HTMLSelectElement): void {
  let keyed = false;
  menu.addEventListener("keydown", () => { keyed = true; });
  menu.addEventListener("pointerdown", () => { keyed = false; });
  menu.addEventListener("change", () => { if (!keyed) menu.blur(); });
}

function byKey(event: KeyboardEvent): void {
  const target = event.target as HTMLElement;
  if (event.ctrlKey || event.metaKey || event.altKey || $<HTMLDialogElement>("keys").open) return;
  if (target.matches("input[type=number]") && event.key !== "Escape") return;
  if (LISTS && target.matches("select:open")) return;
  const does: Record<string, () => void> = {
    "[": () => step(-1), "]": () => step(1), c: () => chooseColour(1), C: () => chooseColour(-1),
    o: () => opacity(state.opacity + 0.1), O: () => opacity(state.opacity - 0.1), d: () => toggle("dots"),
    i: () => toggle("invert"), t: () => toggle("light"), l: () => setLasso(!scatter.lassoing),
    f: () => void query(true), "?": () => $<HTMLDialogElement>("keys").showModal(), 0: home,
    m: () => {
      if (!state.query) { tell("Find similar places first: mark a place, then press f."); return; }
      state.asmap = !state.asmap;
      apply();
      void colour();
    },
    Escape: () => { if (notice.shown) notice.hide(); else if (scatter.lassoing) setLasso(false); else if (state.query) void query(false); else if (chosen) void outline([]); },
  };
  const act = does[event.key];
  if (act) { act(); event.preventDefault(); }
}

function home(): void {
  const [x0, y0, x1, y1] = scene.frame;
  scatter.go({ cx: (x0 + x1) / 2, cy: (y0 + y1) / 2, half: (x1 - x0) / 2 });
  section.home();
}

function wire(): void {
  scatter.onPick = (rank) => void mark(rank, true);
  scatter.onLasso = (polygon) => { setLasso(false); void outline(polygon); };
  scatter.onMove = (settled) => {
    if (!settled) return;
    state.plane = [scatter.view.cx, scatter.view.cy, scatter.view.half];
    remember();
    void more();
  };
  section.onPick = (rank) => void mark(rank, false);
  section.onView = remember;
  section.onWait = (on) => { $("wait").hidden = !on; };
  section.onCursor = (text) => { $("cursor").textContent = text; };
  $("before").onclick = () => step(-1);
  $("after").onclick = () => step(1);
  $<HTMLInputElement>("slide").oninput = (event) => {
    state.section = scene.sheets[Number((event.target as HTMLInputElement).value)]?.id ?? "";
    void openSection();
  };
  $<HTMLInputElement>("opacity").oninput = (event) => opacity(Number((event.target as HTMLInputElement).value));
  $<HTMLSelectElement>("colour").onchange = (event) => pickColour((event.target as HTMLSelectElement).value);
  $("dots").onclick = () => toggle("dots");
  $("invert").onclick = () => toggle("invert");
  $("theme").onclick = () => toggle("light");
  $("lasso").onclick = () => setLasso(!scatter.lassoing);
  $("clear").onclick = () => void outline([]);
  $("home").onclick = home;
  $("enough").onclick = () => void query(false);
  $("help").onclick = () => $<HTMLDialogElement>("keys").showModal();
  $<HTMLSelectElement>("among").onchange = (event) => { state.among = (event.target as HTMLSelectElement).value; void query(true); };
  $<HTMLInputElement>("radius").onchange = (event) => {
    const box = event.target as HTMLInputElement, asked = box.valueAsNumber;
    // what is used is what the box says: the nearest that may be, or, of no number, what it was
    if (Number.isFinite(asked)) state.radius = Math.round(Math.min(100, Math.max(0, asked)) * 100) / 100;
    box.value = String(state.radius);
    void query(true);
  };
  $<HTMLInputElement>("asmap").onchange = (event) => { state.asmap = (event.target as HTMLInputElement).checked; void colour(); };
  for (const id of ["run", "colour", "among"]) releases($<HTMLSelectElement>(id));
  document.addEventListener("keydown", byKey);
  window.addEventListener("resize", () => { if (scene) tick(); });
  const list = $("keylist");
  for (const [key, does] of KEYS) {
    const term = document.createElement("dt"), words = document.createElement("dd");
    term.textContent = key;
    words.textContent = does;
    list.append(term, words);
  }
  onLost((gone) => {
    const banner = $("banner");
    banner.hidden = !gone;
    banner.textContent = gone ? "The viewer's server does not answer. What you see stays; this page tries again by itself." : "";
    if (!gone) section.again();
  });
}

async function begin(): Promise<void> {
  wire();
  apply();
  const runs = await json<{ name: string; system: string; rows: number }[]>("runs");
  const wrong: string[] = [];
  if (state.run >= runs.length) {
    wrong.push(`run ${state.run}`);
    if (state.place >= 0) wrong.push(`place ${state.place}`);
    // places and outlines are those of that run's own table
    Object.assign(state, { run: 0, place: -1, plane: null, outline: [] });
  }
  const chooser = $<HTMLSelectElement>("run");
  chooser.replaceChildren(...runs.map((run, i) => new Option(`${run.name} (${run.system})`, String(i))));
  chooser.value = String(state.run);
  chooser.onchange = () => {
    state.run = Number(chooser.value);
    clearAll();
    void openRun(null);
  };
  await openRun(wrong);
}

begin().catch((error: unknown) => {
  const banner = $("banner");
  banner.hidden = false;
  banner.textContent = error instanceof Error ? error.message : String(error);
});
