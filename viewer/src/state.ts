// What the page shows, kept in the address after '#', so that a reload or a link brings it back.

import type { Scene } from "./api";

export interface State {
  run: number;
  section: string;
  colour: string;
  only: number;
  opacity: number;
  view: [number, number, number] | null;
  plane: [number, number, number] | null;
  place: number;
  query: boolean;
  among: string;
  radius: number;
  asmap: boolean;
  outline: number[][];
  dots: boolean;
  invert: boolean;
  light: boolean;
}

export function fresh(): State {
  return {
    run: 0, section: "", colour: "", only: 0, opacity: 0.6, view: null, plane: null, place: -1, query: false,
    among: "brains", radius: -1, asmap: false, outline: [], dots: false, invert: false, light: false,
  };
}

function numbers(text: string | null): number[] {
  const found = (text ?? "").split(",").map(Number);
  return text && found.every(Number.isFinite) ? found : [];
}

function triple(text: string | null): [number, number, number] | null {
  const [a, b, c, ...more] = numbers(text);
  return a !== undefined && b !== undefined && c !== undefined && c > 0 && !more.length ? [a, b, c] : null;
}

function whole(text: string | null, otherwise: number): number {
  return text !== null && /^\d{1,10}$/.test(text) ? Number(text) : otherwise;
}

/** The state an address holds; what it does not say, or says wrongly, is as at first. */
export function read(hash: string): State {
  const given = new URLSearchParams(hash.replace(/^#/, ""));
  const state = fresh();
  state.run = whole(given.get("run"), 0);
  state.section = given.get("section") ?? "";
  state.colour = given.get("colour") ?? "";
  state.only = whole(given.get("only"), 0);
  const opacity = Number(given.get("opacity") ?? state.opacity);
  if (opacity >= 0 && opacity <= 1) state.opacity = opacity;
  state.view = triple(given.get("view"));
  state.plane = triple(given.get("plane"));
  state.place = whole(given.get("place"), -1);
  state.query = given.get("query") === "1";
  const among = given.get("among") ?? "";
  if (["brains", "sections", "all"].includes(among)) state.among = among;
  const radius = Number(given.get("radius") ?? -1);
  if (radius >= 0 && radius <= 100) state.radius = radius;
  state.asmap = given.get("asmap") === "1";
  const corners = numbers(given.get("outline"));
  if (corners.length >= 6 && corners.length % 2 === 0 && corners.length <= 256)
    for (let i = 0; i < corners.length; i += 2) state.outline.push([corners[i] as number, corners[i + 1] as number]);
  state.dots = given.get("dots") === "1";
  state.invert = given.get("invert") === "1";
  state.light = given.get("light") === "1";
  return state;
}

/** What the state names and the run has not, in words; the state is then as if it had not named it. */
export function settle(state: State, scene: Scene): string[] {
  const gone: string[] = [];
  const short = (name: string): string => (name.length > 40 ? `${name.slice(0, 40)}…` : name);
  if (state.section && !scene.sheets.some((sheet) => sheet.id === state.section)) {
    gone.push(`section ${short(state.section)}`);
    Object.assign(state, { section: "", view: null });
  }
  if (state.colour && !scene.colourings.some((one) => one.title === state.colour)) {
    gone.push(`colour ${short(state.colour)}`);
    Object.assign(state, { colour: "", only: 0 });
  }
  if (state.place >= scene.rows) {
    gone.push(`place ${state.place}`);
    state.place = -1;
  }
  if (state.place < 0) state.query = false;
  if (!state.query) state.asmap = false;
  return gone;
}

export function write(state: State): string {
  const said = new URLSearchParams();
  const put = (name: string, value: string | number, unless: string | number): void => {
    if (value !== unless) said.set(name, String(value));
  };
  put("run", state.run, 0);
  put("section", state.section, "");
  put("colour", state.colour, "");
  put("only", state.only, 0);
  put("opacity", state.opacity, 0.6);
  if (state.view) said.set("view", state.view.map((v) => Math.round(v * 10) / 10).join(","));
  if (state.plane) said.set("plane", state.plane.map((v) => Math.round(v)).join(","));
  put("place", state.place, -1);
  put("query", state.query ? 1 : 0, 0);
  put("among", state.among, "brains");
  put("radius", state.radius, -1);
  put("asmap", state.asmap ? 1 : 0, 0);
  if (state.outline.length) said.set("outline", state.outline.flat().map((v) => Math.round(v)).join(","));
  put("dots", state.dots ? 1 : 0, 0);
  put("invert", state.invert ? 1 : 0, 0);
  put("light", state.light ? 1 : 0, 0);
  return `#${said.toString()}`;
}
