// The features as a plane: what is seen of it, and what the mouse and the keys do there.

import type { Ranks, Within } from "./api";
import { Graphics } from "./graphics";
import { type Layer, Pixels, type Points } from "./pixels";

const MOVING = 300_000; // points drawn while the plane moves, without a graphics card

export interface Seen { cx: number; cy: number; half: number }

export class Scatter {
  onPick: (rank: number) => void = () => undefined;
  onLasso: (polygon: number[][]) => void = () => undefined;
  onMove: (settled: boolean) => void = () => undefined;
  view: Seen = { cx: 32767, cy: 32767, half: 33000 };
  lassoing = false;

  private xy: Uint16Array = new Uint16Array(0);
  private values: Uint16Array = new Uint16Array(0);
  private more: Within | null = null;
  private palette: Uint32Array = new Uint32Array([0xff888888]);
  private only = 0;
  private chosen: Ranks | null = null;
  private place: { rank: number; x: number; y: number } | null = null;
  private found: { x: number; y: number }[] = [];
  private outline: number[][] = [];
  private drawing: number[][] | null = null;
  private frame = 0;
  private still = 0;
  private moving = false;
  private readonly draws: CanvasRenderingContext2D;
  private points: Points;

  constructor(readonly canvas: HTMLCanvasElement) {
    this.draws = canvas.getContext("2d", { willReadFrequently: false }) as CanvasRenderingContext2D;
    this.points = Graphics.begin(() => { this.points = new Pixels(); this.redraw(); }) ?? new Pixels();
    new ResizeObserver(() => this.redraw()).observe(canvas);
    canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("keydown", (event) => this.key(event));
  }

  get loaded(): number { return this.xy.length / 2; }

  setPoints(xy: Uint16Array): void { this.xy = xy; this.more = null; this.redraw(); }

  setValues(values: Uint16Array, palette: Uint32Array, only: number): void {
    this.values = values; this.palette = palette; this.only = only; this.more = null; this.redraw();
  }

  setOnly(only: number): void { this.only = only; this.redraw(); }

  setMore(more: Within | null): void { this.more = more; this.redraw(); }

  setChosen(chosen: Ranks | null, outline: number[][]): void { this.chosen = chosen; this.outline = outline; this.redraw(); }

  setPlace(place: { rank: number; x: number; y: number } | null, found: { x: number; y: number }[]): void {
    this.place = place; this.found = found; this.redraw();
  }

  /** The part of the plane that is seen, in its steps. */
  bounds(): [number, number, number, number] {
    const [sx, sy] = this.spans();
    return [this.view.cx - sx, this.view.cy - sy, this.view.cx + sx, this.view.cy + sy];
  }

  go(view: Seen): void { this.view = { ...view }; this.moved(); }

  redraw(): void {
    if (!this.frame) this.frame = requestAnimationFrame(() => { this.frame = 0; this.draw(); });
  }

  private spans(): [number, number] {
    const { clientWidth: w, clientHeight: h } = this.canvas;
    const least = Math.max(1, Math.min(w, h));
    return [(this.view.half * w) / least, (this.view.half * h) / least];
  }

  private moved(): void {
    this.moving = true;
    clearTimeout(this.still);
    this.still = window.setTimeout(() => { this.moving = false; this.redraw(); this.onMove(true); }, 140);
    this.onMove(false);
    this.redraw();
  }

  private toPlane(event: { clientX: number; clientY: number }): [number, number] {
    const box = this.canvas.getBoundingClientRect();
    const [x0, y0, x1, y1] = this.bounds();
    return [
      x0 + ((event.clientX - box.left) / box.width) * (x1 - x0),
      y0 + ((event.clientY - box.top) / box.height) * (y1 - y0),
    ];
  }

  private toPixels(x: number, y: number): [number, number] {
    const [x0, y0, x1, y1] = this.bounds();
    return [((x - x0) / (x1 - x0)) * this.canvas.clientWidth, ((y - y0) / (y1 - y0)) * this.canvas.clientHeight];
  }

  private wheel(event: WheelEvent): void {
    event.preventDefault();
    this.zoom(Math.exp(Math.max(-240, Math.min(240, event.deltaY)) * 0.0022), this.toPlane(event));
  }

  private zoom(by: number, [x, y]: [number, number]): void {
    const half = Math.min(70_000, Math.max(24, this.view.half * by));
    const share = half / this.view.half;
    this.view = { cx: x + (this.view.cx - x) * share, cy: y + (this.view.cy - y) * share, half };
    this.moved();
  }

  private down(event: PointerEvent): void {
    if (event.button !== 0) return;
    this.canvas.setPointerCapture(event.pointerId);
    const start = [event.clientX, event.clientY] as const;
    const from = { ...this.view };
    const drawing = this.lassoing || event.shiftKey;
    let far = false;
    if (drawing) this.drawing = [this.toPlane(event)];
    const move = (now: PointerEvent): void => {
      const dx = now.clientX - start[0], dy = now.clientY - start[1];
      far ||= Math.hypot(dx, dy) > 4;
      if (!far) return;
      if (this.drawing) { this.drawing.push(this.toPlane(now)); this.redraw(); return; }
      const [sx, sy] = this.spans();
      this.view = {
        ...from,
        cx: from.cx - (dx / this.canvas.clientWidth) * 2 * sx,
        cy: from.cy - (dy / this.canvas.clientHeight) * 2 * sy,
      };
      this.moved();
    };
    const up = (now: PointerEvent): void => {
      this.canvas.removeEventListener("pointermove", move);
      const drawn = this.drawing;
      this.drawing = null;
      if (!far) { const rank = this.nearest(now); if (rank >= 0) this.onPick(rank); }
      else if (drawn && drawn.length > 2) this.onLasso(simple(drawn));
      this.redraw();
    };
    this.canvas.addEventListener("pointermove", move);
    this.canvas.addEventListener("pointerup", up, { once: true });
    this.canvas.addEventListener("pointercancel", () => this.canvas.removeEventListener("pointermove", move), { once: true });
  }

  private key(event: KeyboardEvent): void {
    const step = this.view.half * 0.2;
    const to: Record<string, [number, number]> = {
      ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step],
    };
    const by = to[event.key];
    if (by) { this.view = { ...this.view, cx: this.view.cx + by[0], cy: this.view.cy + by[1] }; this.moved(); }
    else if (event.key === "+" || event.key === "=") this.zoom(0.75, [this.view.cx, this.view.cy]);
    else if (event.key === "-") this.zoom(1 / 0.75, [this.view.cx, this.view.cy]);
    else if (event.key === "Enter") {
      const box = this.canvas.getBoundingClientRect();
      const rank = this.nearest({ clientX: box.left + box.width / 2, clientY: box.top + box.height / 2 }, Infinity);
      if (rank >= 0) this.onPick(rank);
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }

  private nearest(event: { clientX: number; clientY: number }, within = 12): number {
    const [x, y] = this.toPlane(event);
    const [x0, , x1] = this.bounds();
    let best = within === Infinity ? Infinity : ((within * (x1 - x0)) / this.canvas.clientWidth) ** 2;
    let rank = -1;
    const look = (xy: Uint16Array, name: (i: number) => number): void => {
      for (let i = 0; i < xy.length; i += 2) {
        const away = ((xy[i] as number) - x) ** 2 + ((xy[i + 1] as number) - y) ** 2;
        if (away < best) { best = away; rank = name(i >> 1); }
      }
    };
    look(this.xy, (i) => i);
    if (this.more) { const { ranks } = this.more; look(this.more.xy, (i) => ranks[i] as number); }
    return rank;
  }

  // ------------------------------------------------------------------------------------------------------- drawing

  private draw(): void {
    const ratio = Math.min(window.devicePixelRatio || 1, 2);
    const width = Math.max(1, Math.round(this.canvas.clientWidth * ratio));
    const height = Math.max(1, Math.round(this.canvas.clientHeight * ratio));
    if (this.canvas.width !== width || this.canvas.height !== height) {
      this.canvas.width = width; this.canvas.height = height;
    }
    const known = Math.min(this.loaded, this.values.length);
    const drawn = this.moving && !this.points.fast ? Math.min(known, MOVING) : known;
    const layers: Layer[] = [{ xy: this.xy, values: this.values, ranks: null, count: drawn }];
    if (this.more && !this.moving) layers.push({ ...this.more, count: this.more.ranks.length });
    const seen = layers.reduce((sum, one) => sum + one.count, 0);
    const [x0, y0, x1, y1] = this.bounds();
    const share = Math.min(1, ((x1 - x0) * (y1 - y0)) / 65535 ** 2);
    const around = Math.max(1, seen * share);
    // points shrink as they become many; a small table is drawn with discs that a projector shows
    const radius = Math.min(4.2, 110 / Math.sqrt(around));
    this.points.draw(this.draws, layers, {
      bounds: [x0, y0, x1, y1],
      ground: shade(getComputedStyle(this.canvas).getPropertyValue("--stage")),
      radius: Math.max(0.5, radius) * ratio,
      round: radius > 0.75,
      strength: around > 200_000 ? 0.55 : around > 40_000 ? 0.75 : 0.92,
      palette: this.palette,
      only: this.only,
      chosen: this.chosen,
    });
    this.draws.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.annotate();
    this.draws.setTransform(1, 0, 0, 1, 0, 0);
    this.canvas.dataset["drawn"] = String(seen);
    this.canvas.dataset["by"] = this.points.name;
  }

  private annotate(): void {
    const style = getComputedStyle(this.canvas);
    const ink = style.getPropertyValue("--ink").trim(), accent = style.getPropertyValue("--accent").trim();
    const outline = this.drawing ?? this.outline;
    if (outline.length > 1) {
      this.draws.beginPath();
      outline.forEach(([x, y], i) => {
        const [px, py] = this.toPixels(x as number, y as number);
        if (i) this.draws.lineTo(px, py); else this.draws.moveTo(px, py);
      });
      if (!this.drawing) this.draws.closePath();
      this.draws.lineWidth = 1.5;
      this.draws.setLineDash([5, 4]);
      this.draws.strokeStyle = ink;
      this.draws.stroke();
      this.draws.setLineDash([]);
    }
    // the casing is of the ground, and a ring is wider than a point: what lies inside and beside it is seen
    const ground = style.getPropertyValue("--stage").trim();
    for (const one of this.found) ring(this.draws, ...this.toPixels(one.x, one.y), 6.5, accent, ground);
    if (this.place) ring(this.draws, ...this.toPixels(this.place.x, this.place.y), 10, ink, ground);
  }
}

/** A ring that shows on every ground: on images light over dark, elsewhere cased in the ground's own tone. */
export function ring(
  draws: CanvasRenderingContext2D, x: number, y: number, radius: number, colour: string, ground = "rgba(0,0,0,.75)",
): void {
  for (const [width, tone] of [[4.5, ground], [2, colour]] as const) {
    draws.beginPath();
    draws.arc(x, y, radius, 0, 2 * Math.PI);
    draws.lineWidth = width;
    draws.strokeStyle = tone;
    draws.stroke();
  }
}

/** "#RRGGBB" or "#RGB" as a little-endian pixel. */
export function shade(text: string): number {
  let hex = text.trim().replace("#", "");
  if (hex.length === 3) hex = [...hex].map((c) => c + c).join("");
  const n = parseInt(hex, 16) || 0;
  return (0xff000000 | ((n & 255) << 16) | (n & 0xff00) | ((n >> 16) & 255)) >>> 0;
}

/** An outline with at most 96 corners, evenly thinned. */
function simple(polygon: number[][]): number[][] {
  const step = Math.max(1, polygon.length / 96);
  const kept: number[][] = [];
  for (let i = 0; i < polygon.length; i += step) kept.push((polygon[Math.floor(i)] as number[]).map(Math.round));
  return kept;
}
